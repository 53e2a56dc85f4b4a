"""A program on gevent or eventlet that is monkey-patched before it enables metrics, or after, or is not measured.

Reports how late a greenlet was that wakes up every 5 ms, and which threads `threading` knows, in it and in a child.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import threading
import time
from typing import Any

from reporting import INTERVAL, burn, report

from runtime_metrics import RuntimeMetrics

TICK = 0.005
TICKS = 200


def patch(library: str) -> Any:
    """Patches what blocks in the standard library; returns the library's module."""
    module: Any = importlib.import_module(library)
    if library == "gevent":
        importlib.import_module("gevent.monkey").patch_all()
    else:
        module.monkey_patch()
    return module


def tick(hub: Any, late: list[float]) -> None:
    """Wakes up again and again, and records by how much each time was too late."""
    for _ in range(TICKS):
        due = time.monotonic() + TICK
        hub.sleep(TICK)
        late.append(time.monotonic() - due)


def compute(hub: Any) -> None:
    """Keeps the hub slightly busy."""
    for _ in range(20):
        burn(0.001)
        hub.sleep(0.02)


def live(hub: Any, role: str) -> None:
    """Runs both and reports the delays."""
    late: list[float] = []
    busy = hub.spawn(compute, hub)
    hub.spawn(tick, hub, late)
    while not (len(late) == TICKS and busy.dead):
        hub.sleep(TICK)
    report(
        role,
        median=sorted(late)[TICKS // 2],
        threads=[type(thread).__name__ for thread in threading.enumerate()],
    )


def main() -> None:
    """Does what the command line says: the library, when it is patched, and where metrics go if not to the test."""
    library, when, *rest = sys.argv[1:]
    url = rest[0] if rest else None
    logging.getLogger("runtime_metrics").addHandler(logging.NullHandler())
    if when == "after":
        RuntimeMetrics.enable(dogstatsd_url=url)
    hub = patch(library)
    if when == "before":
        RuntimeMetrics.enable(dogstatsd_url=url)
    live(hub, "parent")
    pid = os.fork()
    if pid == 0:
        live(hub, "child")
        hub.sleep(2 * INTERVAL)
        RuntimeMetrics.disable()
        os._exit(0)
    os.waitpid(pid, 0)
    RuntimeMetrics.disable()


if __name__ == "__main__":
    main()
