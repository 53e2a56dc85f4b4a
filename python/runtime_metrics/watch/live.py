"""The view for a terminal: a live table. It needs `rich`, which `pip install runtime-metrics[cli]` installs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from runtime_metrics.watch.board import TREND_LENGTH, Board
from runtime_metrics.watch.format import trend

if TYPE_CHECKING:
    from types import TracebackType
    from typing import TextIO

    from runtime_metrics.watch.dogstatsd import Line

GAP = 2
EXTREMES_WIDTH = 2 * (16 + GAP)
# The extremes are shown if the trend beside them can still be this wide.
MIN_TREND_LENGTH = 20


class LiveView:
    """One table, redrawn in place; the last one stays on the terminal."""

    def __init__(self, board: Board, address: str, stream: TextIO) -> None:
        """Takes the board to fill and the terminal to draw on."""
        self._board = board
        self._address = address
        self._start = time.monotonic()
        self._console = Console(file=stream)
        # No automatic refresh: its thread would need a lock around the board.
        self._live = Live(console=self._console, auto_refresh=False)

    def add(self, line: Line) -> None:
        """Adds the line; the next refresh shows it."""
        self._board.add(line)

    def refresh(self) -> None:
        """Draws the table."""
        self._live.update(self._content(), refresh=True)

    def __enter__(self) -> LiveView:
        """Takes over the terminal's lines below the cursor."""
        self._live.start()
        self.refresh()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves the last table behind."""
        self._live.update(self._content())
        self._live.stop()

    # Whatever was received is a Text, never a str: rich would take a "[" of a tag in a str for markup.
    def _content(self) -> Group:
        passed = time.monotonic() - self._start
        state = f"{self._address}   {passed:.0f} s   {self._board.sample_count} samples"
        if not self._board.names:
            return Group(Text(f"{state}, nothing to show yet", style="dim"))
        return Group(Text(" ".join(self._board.shared_tags)), self._table(), Text(state, style="dim"))

    def _table(self) -> Table:
        processes = self._board.processes
        rows = [row for process in processes for row in process.rows]
        labels = [row.label for row in rows] + [process.label for process in processes]
        names = max(map(len, labels)) + GAP
        values = max(len(row.series.latest) for row in rows) + GAP
        room = self._console.width - names - values
        has_room = room >= EXTREMES_WIDTH + MIN_TREND_LENGTH
        trend_length = max(1, min(TREND_LENGTH, room - EXTREMES_WIDTH if has_room else room))

        table = Table(box=None, padding=(0, GAP, 0, 0), header_style="dim", pad_edge=False)
        table.add_column("name", no_wrap=True)
        for heading in ("last", "min", "max") if has_room else ("last",):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("trend", no_wrap=True)
        for process in processes:
            if len(processes) > 1:
                table.add_row(Text(process.label, style="bold"))
            for row in process.rows:
                extremes = row.series.extremes if has_room else ()
                course = trend([*row.series.recent][-trend_length:])
                table.add_row(*(Text(cell) for cell in (row.label, row.series.latest, *extremes, course)))
        return table
