"""One thread computes all the time: more processes would help, more threads would not."""

from __future__ import annotations

import time

METRICS = ("cpu.percent", "cpu.thread.max_percent", "gil.wait.*", "cpu.throttled.percent")
LOOK_AT = "cpu.thread.max_percent is near 100, and so is cpu.percent. gil.wait stays at some 5 ms."


def provoke(seconds: float) -> None:
    """Computes."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))
