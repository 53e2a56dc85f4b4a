"""A program that meets its memory limit, survives its MemoryError, and lives on.

Its arguments: AS or DATA, whether the limit is set before or after metrics are enabled, what it does at the limit, and
whether it is with or without the library. benches/memory_limits.py makes a table of its exit statuses.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime_metrics import RuntimeMetrics

ROOM = 30_000_000
# More than there is memory for.
SLOTS = 500_000
INTERVAL = 0.1
# How long it lives at the limit: several intervals. So few that counting them needs no memory.
MOMENTS = 20
MOMENT = INTERVAL / 4
TIMEOUT = 10
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
    if when == "after":
        set_limit(limit)
    kept = fill()
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
    if child == 0 or os.getpid() != process:
        os._exit(0)
    if action == "exit":
        return 0
    kept.clear()
    if child and os.waitpid(child, 0)[1] != 0:
        return 3
    # What was free may be in pieces now, too small for the stack of another thread.
    if metrics is None or action in ("enable", "fork"):
        return 0
    return 0 if flushes_again(metrics) else 4


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
