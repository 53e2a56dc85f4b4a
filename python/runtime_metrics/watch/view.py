"""Shows what a receiver gets: as a live table on a terminal that has `rich`, as plain lines elsewhere."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from runtime_metrics.watch.plain import plain_view

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from typing import TextIO

    from runtime_metrics.watch.board import Board
    from runtime_metrics.watch.dogstatsd import Line
    from runtime_metrics.watch.receiver import Receiver

REFRESH_SECONDS = 0.25


class View(Protocol):
    """Shows the lines it is given."""

    def add(self, line: Line) -> None:
        """Takes a line."""

    def refresh(self) -> None:
        """Shows all lines so far."""


def opened(board: Board, address: str, stream: TextIO) -> AbstractContextManager[View]:
    """The view that suits the stream. On leaving it shows every series once more."""
    if stream.isatty():
        try:
            from runtime_metrics.watch.live import LiveView
        except ImportError:
            pass
        else:
            return LiveView(board, address, stream)
    return plain_view(board, address, stream)


def show(receiver: Receiver, view: View, ended: Callable[[], bool]) -> None:
    """Shows what arrives until `ended` is true."""
    while not ended():
        for line in receiver.lines(REFRESH_SECONDS):
            view.add(line)
        view.refresh()


@dataclass
class Stop:
    """Whether a signal has asked the command to end."""

    requested: bool = False


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Turns SIGINT and SIGTERM into a flag.

    An exception could be raised anywhere, even while a child process is being stopped or a table drawn.
    """
    stop = Stop()

    def request(_number: int, _frame: object) -> None:
        stop.requested = True

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, request) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
