"""A C library forgets to free what it has allocated."""

from __future__ import annotations

import ctypes
import time

METRICS = ("mem.rss", "mem.rss.anon", "mem.python.blocks")
LOOK_AT = "mem.rss.anon grows, mem.python.blocks does not: it is not Python's memory."

SIZE = 2 << 20


def provoke(seconds: float) -> None:
    """Allocates some 20 MB more, and uses them."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    for _ in range(10):
        ctypes.memset(libc.malloc(SIZE), 1, SIZE)
        time.sleep(seconds / 10)
