"""Full garbage collections of a large heap pause the program."""

from __future__ import annotations

import gc
import time

METRICS = ("gc.pause.*", "gc.collections.gen2", "gc.collected")
LOOK_AT = "gc.pause.max is the length of a pause. gc.collected is 0: they find nothing to free."


def provoke(seconds: float) -> None:
    """Collects with a million objects alive."""
    heap = [[number] for number in range(1_000_000)]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        gc.collect()
    heap.clear()
