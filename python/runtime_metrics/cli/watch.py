"""`runtime-metrics watch`: a local stand-in for the Agent that shows what it receives."""

from __future__ import annotations

import re
import sys
import time
from typing import TYPE_CHECKING

from runtime_metrics import _core
from runtime_metrics.cli import seconds
from runtime_metrics.watch import view
from runtime_metrics.watch.board import Board
from runtime_metrics.watch.receiver import Receiver

if TYPE_CHECKING:
    import argparse

NAME_OR_GROUP = re.compile(r"\*|\w+(\.\w+)*(\.\*)?", re.ASCII)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("--host", default="127.0.0.1", help="UDP address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=port, default=8125, help="UDP port, 0 for any (default: %(default)s)")
    parser.add_argument("--unix", metavar="PATH", help="listen on a Unix datagram socket instead of UDP")
    parser.add_argument(
        "--only",
        metavar="NAMES",
        type=names,
        default=(),
        help="a comma list of names and groups like gc.*, as in DD_RUNTIME_METRICS_INCLUDE",
    )
    parser.add_argument("--seconds", type=seconds, help="end after this time (default: at Ctrl-C)")


def run(arguments: argparse.Namespace) -> int:
    """Shows what arrives until Ctrl-C or the deadline."""
    requested = f"unix://{arguments.unix}" if arguments.unix else f"{arguments.host}:{arguments.port}"
    try:
        receiver = (
            Receiver.unix(arguments.unix) if arguments.unix else Receiver.udp(arguments.host, arguments.port)
        )
    except OSError as error:
        print(
            f"runtime-metrics watch: cannot listen on {requested}: {error.strerror or error}", file=sys.stderr
        )
        return 1

    deadline = time.monotonic() + (arguments.seconds or float("inf"))
    board = Board({metric.name: metric.unit for metric in _core.catalogue()}, arguments.only)
    with (
        receiver,
        view.stop_signals() as stop,
        view.opened(board, receiver.address, sys.stdout) as shown,
    ):
        view.show(receiver, shown, ended=lambda: stop.requested or time.monotonic() >= deadline)

    print(f"samples: {board.sample_count}, malformed lines: {receiver.malformed_count}")
    for malformed in receiver.malformed:
        print(f"malformed line: {malformed}", file=sys.stderr)
    return 0


def port(text: str) -> int:
    """The argument type of a port number."""
    number = int(text)
    if not 0 <= number <= 65535:
        raise ValueError(text)
    return number


def names(text: str) -> tuple[str, ...]:
    """The argument type of a list of names and groups."""
    listed = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in listed:
        if not NAME_OR_GROUP.fullmatch(name):
            import argparse

            raise argparse.ArgumentTypeError(f"{name}: expected a name or a group such as gc.*")
    return listed
