"""What `watch` and `demo` show: a live table on a terminal that has `rich`, plain lines elsewhere."""

from __future__ import annotations

import signal
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from runtime_metrics.watch.board import Board, label, runtime_id, trend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from typing import TextIO

    from runtime_metrics.watch.receiver import Line, Receiver

REFRESH_SECONDS = 0.25
LABEL_WIDTH = 41
VALUE_WIDTH = 16


class Screen(Protocol):
    """Shows the samples it is given."""

    def add(self, line: Line) -> None:
        """Takes a line."""

    def refresh(self) -> None:
        """Brings what is shown up to date."""


@dataclass
class Stop:
    """Whether somebody asked us to end."""

    asked: bool = False


@contextmanager
def signals_noted() -> Iterator[Stop]:
    """Turns Ctrl-C and a request to terminate into a fact to look at.

    An exception could strike anywhere, also while a child process is being stopped or a table being drawn.
    """
    stop = Stop()

    def note(_number: int, _frame: object) -> None:
        stop.asked = True

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, note) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def opened(board: Board, address: str, stream: TextIO) -> AbstractContextManager[Screen]:
    """The screen that suits the stream. On leaving it shows every series a last time."""
    if stream.isatty():
        try:
            from runtime_metrics.watch.live import LiveScreen
        except ImportError:
            pass
        else:
            return LiveScreen(board, address, stream)
    return plain_screen(board, address, stream)


def show(receiver: Receiver, screen: Screen, ended: Callable[[], bool]) -> None:
    """Shows what arrives until `ended` says so."""
    while not ended():
        for line in receiver.lines(REFRESH_SECONDS):
            screen.add(line)
        screen.refresh()


@contextmanager
def plain_screen(board: Board, address: str, stream: TextIO) -> Iterator[PlainScreen]:
    """A line per line, and a summary at the end."""
    screen = PlainScreen(board, stream)
    print(f"listening on {address}", file=stream, flush=True)
    yield screen
    for line in summary(board):
        print(line, file=stream)


class PlainScreen:
    """A line per line; the tags of a process once, when its first line comes."""

    def __init__(self, board: Board, stream: TextIO) -> None:
        """Takes the board to fill and the stream to write to."""
        self._board = board
        self._stream = stream
        self._start = time.monotonic()
        # Of each process, the tags that all its lines have carried.
        self._introduced: dict[str, tuple[str, ...]] = {}

    def add(self, line: Line) -> None:
        """Writes the line."""
        series = self._board.add(line)
        if series is None:
            return
        process = runtime_id(line.tags)
        if process not in self._introduced:
            self._introduced[process] = line.tags
            self._write(f"tags of what follows: {' '.join(line.tags)}")
        # With several processes, the beginning of its runtime-id says whose line it is.
        owner = f"  {process[:8]}" if len(self._introduced) > 1 else ""
        passed = time.monotonic() - self._start
        shared = tuple(tag for tag in self._introduced[process] if tag in line.tags)
        self._introduced[process] = shared
        name = label(series, shared)
        self._write(f"{passed:6.1f} s  {name:{LABEL_WIDTH}}  {series.latest:>{VALUE_WIDTH}}{owner}")

    def refresh(self) -> None:
        """Lets the lines through to whoever reads a pipe."""
        self._stream.flush()

    def _write(self, line: str) -> None:
        print(line, file=self._stream)


def summary(board: Board) -> Iterator[str]:
    """Every series in one plain table, process by process."""
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
