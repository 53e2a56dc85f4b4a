"""Objects refer to each other in cycles, which only a garbage collection frees."""

from __future__ import annotations

import time

METRICS = ("gc.collected", "gc.collections.gen0", "gc.pause.time")
LOOK_AT = "gc.collected counts them. Objects without cycles are freed at once, and not counted."


def provoke(seconds: float) -> None:
    """Makes lists that contain themselves."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(1000):
            knot: list[object] = []
            knot.append(knot)
        time.sleep(0.01)
