"""`runtime-metrics demo`: runs a busy program with a local receiver, to show the metrics move."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from runtime_metrics import _core
from runtime_metrics.cli import catalogue, seconds
from runtime_metrics.watch import view
from runtime_metrics.watch.board import Board
from runtime_metrics.watch.receiver import Receiver

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

STOP_TIMEOUT_SECONDS = 5.0
SETTINGS_PREFIXES = ("DATADOG_", "DD_", "OTEL_")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("--seconds", type=seconds, default=20.0, help="how long (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Shows the metrics of the workload; fails if one of the default level never arrived."""
    metrics = _core.catalogue()
    expected = {
        metric.name
        for metric in metrics
        if metric.level == "default" and not metric.by_name and metric.name.startswith(catalogue.PREFIX)
    }
    board = Board({metric.name: metric.unit for metric in metrics})
    with (
        tempfile.TemporaryFile() as errors,
        Receiver.udp() as receiver,
        view.stop_signals() as stop,
        view.opened(board, receiver.address, sys.stdout) as shown,
        _workload(receiver.address, errors) as child,
    ):
        deadline = time.monotonic() + arguments.seconds
        view.show(
            receiver,
            shown,
            ended=lambda: stop.requested or time.monotonic() >= deadline or child.poll() is not None,
        )
        ended_early = child.poll() is not None
        _request_exit(child)
        deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
        view.show(receiver, shown, ended=lambda: child.poll() is not None or time.monotonic() >= deadline)
        for line in receiver.pending():
            shown.add(line)
        shown.refresh()
        status = child.poll()
        errors.seek(0)
        error_output = errors.read().decode(errors="replace")

    sys.stderr.write(error_output)
    missing = sorted(expected - board.names)
    print(f"{len(expected) - len(missing)} of {len(expected)} metrics seen over a real UDP socket")
    problems = [f"never seen: {name}" for name in missing]
    problems += [f"malformed line: {malformed}" for malformed in receiver.malformed]
    if status is None:
        problems.append("the workload did not end when asked to")
    elif ended_early or status != 0:
        problems.append(f"the workload ended with status {status}{' before its time' if ended_early else ''}")
    for problem in problems:
        print(f"runtime-metrics demo: {problem}", file=sys.stderr)
    return 1 if problems else 0


@contextmanager
def _workload(address: str, errors: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The workload as a child process, which does not outlive the block."""
    # Without the settings that this shell exports: they could change what the demo shows.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(SETTINGS_PREFIXES)
    }
    environment |= {"DD_DOGSTATSD_URL": address, "DD_SERVICE": "demo", "DD_ENV": "local", "DD_VERSION": "1.0"}
    child = subprocess.Popen(
        [sys.executable, "-m", "runtime_metrics.cli.workload"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        # Ctrl-C reaches every process of the terminal's foreground group; this one is to end only on request.
        start_new_session=True,
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
    )
    try:
        yield child
    finally:
        _request_exit(child)
        child.kill()
        child.wait()


def _request_exit(child: subprocess.Popen[bytes]) -> None:
    """Closes the child's standard input, at whose end it exits normally, with its last flush."""
    assert child.stdin is not None
    child.stdin.close()
