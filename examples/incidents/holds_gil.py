"""A C function keeps the GIL while it waits, as some drivers and numerical extensions do."""

from __future__ import annotations

import ctypes

METRICS = ("gil.wait.*", "cpu.run_delay", "os.hiccup.max")
LOOK_AT = "gil.wait.max rises to the length of the call. The CPU is idle, and no thread waits for it."


def provoke(seconds: float) -> None:
    """Sleeps in C without releasing the GIL."""
    ctypes.PyDLL(None).usleep(int(1e6 * seconds))
