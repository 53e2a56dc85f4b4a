"""Enables the standard level, or OBSERVED_LEVEL, flushes, provokes what the command line names, and flushes again.

It is a program of examples/incidents, for so many seconds, or a function here, which is a neighbour of an incident or
cannot be provoked everywhere.

The second flush shows what that has done to the figures. The control groups to enter first are in CGROUPS.
"""

from __future__ import annotations

import importlib
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime_metrics import RuntimeMetrics

if TYPE_CHECKING:
    from collections.abc import Callable

INCIDENTS = Path(__file__).resolve().parents[2] / "examples" / "incidents"
LEVEL: Any = os.environ.get("OBSERVED_LEVEL", "standard")
SECONDS = 1.0
# Beyond the limit of the control group of the tests.
TOO_MUCH = 80 << 20


def idle() -> None:
    """Waits."""
    time.sleep(SECONDS)


def waiting() -> None:
    """Waits again and again, for moments, in several threads: nothing keeps them from running when they want to."""

    def wait() -> None:
        for _ in range(50):
            time.sleep(0.01)

    threads = [threading.Thread(target=wait) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def reading() -> None:
    """Reads a file of which the kernel can drop any page, larger than the limit of the control group."""
    with open(os.environ["LARGE_FILE"], "rb") as file:
        while file.read(1 << 20):
            pass


def killing() -> None:
    """Starts a child that uses more memory than is allowed, and is killed."""
    child = os.fork()
    if child == 0:
        with mmap.mmap(-1, TOO_MUCH) as memory:
            for at in range(0, TOO_MUCH, mmap.PAGESIZE):
                memory[at] = 1
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL


def keeps_threads() -> None:
    """Starts threads that go on waiting."""
    for _ in range(10):
        threading.Thread(target=threading.Event().wait, daemon=True).start()


def reading_again_and_again() -> None:
    """Reads, for some seconds, a file that is larger than the limit of the control group: no page stays in memory."""
    end = time.monotonic() + 6
    while time.monotonic() < end:
        reading()


def frozen_again_and_again() -> None:
    """Is stopped most of the time."""
    stop = f"kill -STOP {os.getpid()}; sleep 0.3; kill -CONT {os.getpid()}; sleep 0.1"
    subprocess.run(["/bin/sh", "-c", f"for turn in $(seq 15); do {stop}; done"], check=True)


NEIGHBOURS: dict[str, Callable[[], None]] = {
    work.__name__: work
    for work in (
        idle,
        waiting,
        reading,
        killing,
        keeps_threads,
        reading_again_and_again,
        frozen_again_and_again,
    )
}

if __name__ == "__main__":
    name, seconds = sys.argv[1:]
    for path in os.environ.get("CGROUPS", "").split():
        Path(path).write_text(str(os.getpid()))
    RuntimeMetrics.enable(flush_interval=float(os.environ.get("INTERVAL", "3600")), level=LEVEL)
    assert RuntimeMetrics.flush()
    if name in NEIGHBOURS:
        NEIGHBOURS[name]()
    else:
        sys.path.insert(0, str(INCIDENTS))
        importlib.import_module(name).provoke(float(seconds))
    assert RuntimeMetrics.flush()
    RuntimeMetrics.disable()
