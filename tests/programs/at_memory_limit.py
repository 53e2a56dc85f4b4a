"""A program that meets its memory limit, survives its MemoryError, and lives on.

Its arguments: AS or DATA, whether the limit is set before or after metrics are enabled, what it does at the limit, and
whether it is with or without the library. benches/memory_limits.py makes a table of its exit statuses.
"""

from __future__ import annotations

import _thread
import os
import resource
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime_metrics import RuntimeMetrics

ROOM = 30_000_000
# More than there is memory for.
SLOTS = 500_000
INTERVAL = 0.1
# How long it lives at the limit: several intervals. So few that counting them needs no memory.
MOMENTS = 20
MOMENT = INTERVAL / 4
TIMEOUT = 10
STACK = 256 * 1024
LOCKS = 50
# A fork may need more than there is. Made beforehand, as there may be no memory for a tuple.
ACCEPTED = (MemoryError, OSError)
URL = "udp://127.0.0.1:9"


def main(limit: str, when: str, action: str, library: str) -> int:
    """Returns 0 if all went well."""
    metrics: type[RuntimeMetrics] | None = None
    if library == "with":
        from runtime_metrics import RuntimeMetrics

        metrics = RuntimeMetrics
        os.environ.update(DD_DOGSTATSD_URL=URL, DD_RUNTIME_METRICS_INTERVAL=str(INTERVAL))

    if when == "before":
        set_limit(limit)
    if metrics is not None and action != "enable":
        metrics.enable()
        # The threads have their stacks, as in a program that has run for a while.
        time.sleep(2.5 * INTERVAL)
    threads = Threads()
    if action == "thread forks":
        threads.start(threads.fork)
    elif action == "thread calls" and metrics is not None:
        for call in (metrics.flush, metrics.snapshot, metrics.status, metrics.enable):
            threads.start(call)
    elif action == "thread disables" and metrics is not None:
        threads.start(metrics.disable)
    # Without memory for new locks, CPython ends the child of a fork: whether there is some would be chance.
    spare = [_thread.allocate_lock() for _ in range(LOCKS)] if "fork" in action else []
    if when == "after":
        set_limit(limit)
    kept = fill()
    spare.clear()
    threads.go.release()
    process, child, passed = os.getpid(), None, 0
    # Without calls in Python: CPython 3.13 crashes if there is no memory for a frame.
    while passed < MOMENTS:
        passed += 1
        try:
            if action == "flush" and metrics is not None:
                metrics.flush()
            elif action == "snapshot" and metrics is not None:
                metrics.snapshot()
            elif action == "enable" and metrics is not None:
                metrics.enable()
            elif action == "fork" and child is None:
                child = os.fork()
            time.sleep(MOMENT)
        except ACCEPTED:
            pass
    if action == "exit":
        return 0
    kept.clear()
    threads.end.release()
    if child == 0 or os.getpid() != process:
        os._exit(0)
    if not threads.have_ended():
        return 5
    child = child or threads.child
    if child and os.waitpid(child, 0)[1] != 0:
        return 3
    # What was free may be in pieces now, too small for the stack of another thread.
    if metrics is None or action in ("enable", "fork", "thread forks", "thread disables"):
        return 0
    return 0 if flushes_again(metrics) else 4


class Threads:
    """Threads that make one call each, their first of the library, at the limit: they begin before it."""

    def __init__(self) -> None:
        """There are none yet."""
        self.go = _thread.allocate_lock()
        self.go.acquire()
        self.end = _thread.allocate_lock()
        self.end.acquire()
        self.begun = _thread.allocate_lock()
        self.begun.acquire()
        self.child: int | None = None

    def start(self, call: Callable[[], object]) -> None:
        """Starts one, which waits for `go`; returns once it has a heap, for which its limit would leave no room."""
        _thread.stack_size(STACK)
        _thread.start_new_thread(self.run, (call, self.go, self.end))
        self.begun.acquire()

    def run(self, call: Callable[[], object], go: _thread.LockType, end: _thread.LockType) -> None:
        """Makes the call, and lives on until there is memory again, unless CPython itself finds too little."""
        assert bytes(4096)
        self.begun.release()
        try:
            go.acquire()
            go.release()
            call()
        except ACCEPTED:
            pass
        end.acquire()
        end.release()

    def fork(self) -> None:
        """Forks a child that ends at once."""
        self.child = os.fork()
        if self.child == 0:
            os._exit(0)

    def have_ended(self) -> bool:
        """Waits for them."""
        deadline = time.monotonic() + TIMEOUT
        while _thread._count() > 0:
            if time.monotonic() > deadline:
                return False
            time.sleep(INTERVAL)
        return True


def set_limit(limit: str) -> None:
    """Leaves the process a little more than it has."""
    field = {"AS": "VmSize:", "DATA": "VmData:"}[limit]
    with open("/proc/self/status", encoding="ascii") as status:
        (kilobytes,) = (line.split()[1] for line in status if line.startswith(field))
    limit_to = int(kilobytes) * 1024 + ROOM
    resource.setrlimit({"AS": resource.RLIMIT_AS, "DATA": resource.RLIMIT_DATA}[limit], (limit_to, limit_to))


def fill() -> list[bytes | None]:
    """Fills the memory to the last byte: large objects first, small ones until none fits any more."""
    kept: list[bytes | None] = [None] * SLOTS
    size, slot = 4096, 0
    while size >= 8:
        try:
            while True:
                kept[slot] = bytes(size)
                slot += 1
        except MemoryError:
            size //= 2
    return kept


def flushes_again(metrics: type[RuntimeMetrics]) -> bool:
    """Waits for the metrics of two more flushes."""
    deadline = time.monotonic() + TIMEOUT
    seen = metrics.status()["metrics"]
    while metrics.status()["metrics"] < seen + 30:
        if time.monotonic() > deadline:
            return False
        time.sleep(INTERVAL)
    return True


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
