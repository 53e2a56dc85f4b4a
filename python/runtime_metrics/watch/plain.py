"""The view for a file, a pipe, or a terminal without `rich`: a line for each line received, then a summary."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from runtime_metrics.watch.board import Board, label, runtime_id
from runtime_metrics.watch.format import trend

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

    from runtime_metrics.watch.dogstatsd import Line

LABEL_WIDTH = 41
VALUE_WIDTH = 16


@contextmanager
def plain_view(board: Board, address: str, stream: TextIO) -> Iterator[PlainView]:
    """The view, with the address before it and a summary after it."""
    view = PlainView(board, stream)
    print(f"listening on {address}", file=stream, flush=True)
    yield view
    for line in summary(board):
        print(line, file=stream)


class PlainView:
    """Prints a line for each line; the tags of a process once, before its first line."""

    def __init__(self, board: Board, stream: TextIO) -> None:
        """Takes the board to fill and the stream to write to."""
        self._board = board
        self._stream = stream
        self._start = time.monotonic()
        # By process: the tags that all its lines so far have carried.
        self._shared_tags: dict[str, tuple[str, ...]] = {}

    def add(self, line: Line) -> None:
        """Prints the line."""
        series = self._board.add(line)
        if series is None:
            return
        process = runtime_id(line.tags)
        if process not in self._shared_tags:
            self._shared_tags[process] = line.tags
            self._write(f"tags of what follows: {' '.join(line.tags)}")
        # With several processes, each line ends with the start of its runtime-id.
        owner = f"  {process[:8]}" if len(self._shared_tags) > 1 else ""
        passed = time.monotonic() - self._start
        shared = tuple(tag for tag in self._shared_tags[process] if tag in line.tags)
        self._shared_tags[process] = shared
        name = label(series, shared)
        self._write(f"{passed:6.1f} s  {name:{LABEL_WIDTH}}  {series.latest:>{VALUE_WIDTH}}{owner}")

    def refresh(self) -> None:
        """Flushes the stream, for the reader of a pipe."""
        self._stream.flush()

    def _write(self, line: str) -> None:
        print(line, file=self._stream)


def summary(board: Board) -> Iterator[str]:
    """The lines of a table of every series, process by process."""
    processes = board.processes
    if not processes:
        return
    rows = [row for process in processes for row in process.rows]
    width = max(len(row.label) for row in rows)
    yield ""
    yield " ".join(board.shared_tags)
    yield f"{'NAME':{width}}  {'LAST':>{VALUE_WIDTH}}  {'MIN':>{VALUE_WIDTH}}  {'MAX':>{VALUE_WIDTH}}  TREND"
    for process in processes:
        if len(processes) > 1:
            yield process.label
        for row in process.rows:
            low, high = row.series.extremes
            yield (
                f"{row.label:{width}}  {row.series.latest:>{VALUE_WIDTH}}  {low:>{VALUE_WIDTH}}  "
                f"{high:>{VALUE_WIDTH}}  {trend(row.series.recent)}"
            )
