"""Enables the standard level, flushes, does what the command line names, and flushes again.

The second flush shows what that has done to the figures. The control groups to enter first are in CGROUPS.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from runtime_metrics import RuntimeMetrics

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS = 1.0
# Beyond the limit of the control group of the tests.
TOO_MUCH = 80 << 20
# What is kept: so many objects, so much memory in pieces of a size.
OBJECTS = 200_000
NATIVE = 50 << 20
PIECE = 10_000

KEPT: list[object] = []


def busy() -> None:
    """Computes."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        sum(range(1000))


def idle() -> None:
    """Waits."""
    time.sleep(SECONDS)


def holding() -> None:
    """Calls a C function that keeps the GIL while it waits."""
    ctypes.PyDLL(None).usleep(int(3e6 * SECONDS))


def frozen() -> None:
    """Is stopped for a while, as a whole."""
    thaw = f"sleep {3 * SECONDS}; kill -CONT {os.getpid()}"
    with subprocess.Popen(["/bin/sh", "-c", f"kill -STOP {os.getpid()}; {thaw}"]):
        pass
    # The thread that has overslept wakes up as this one does.
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


def keeping() -> None:
    """Keeps objects of Python."""
    KEPT.extend([number] for number in range(OBJECTS))


def allocating() -> None:
    """Allocates memory as a native library does, and keeps it."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    for _ in range(NATIVE // PIECE):
        libc.memset(ctypes.c_void_p(libc.malloc(PIECE)), 1, PIECE)


def mapping() -> None:
    """Maps a file and keeps it."""
    with open(os.environ["LARGE_FILE"], "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    KEPT.append((mapped, sum(mapped[:: mmap.PAGESIZE])))


WORK: dict[str, Callable[[], None]] = {
    work.__name__: work
    for work in (busy, idle, holding, frozen, waiting, reading, killing, keeping, allocating, mapping)
}

if __name__ == "__main__":
    for path in os.environ.get("CGROUPS", "").split():
        Path(path).write_text(str(os.getpid()))
    RuntimeMetrics.enable(flush_interval=float(os.environ.get("INTERVAL", "3600")), level="standard")
    assert RuntimeMetrics.flush()
    WORK[sys.argv[1]]()
    assert RuntimeMetrics.flush()
    RuntimeMetrics.disable()
