"""A large file is mapped into memory and read."""

from __future__ import annotations

import mmap
import tempfile
import time

METRICS = ("mem.rss", "mem.rss.anon", "mem.rss.peak")
LOOK_AT = "mem.rss grows, mem.rss.anon does not: the pages are the file's, and the kernel can drop them."

SIZE = 50 << 20
MAPPED: list[mmap.mmap] = []


def provoke(seconds: float) -> None:
    """Maps a file of 50 MiB in place of the last one, and reads a byte of each page."""
    MAPPED.clear()
    time.sleep(seconds / 2)
    with tempfile.TemporaryFile() as file:
        file.write(bytes(SIZE))
        file.flush()
        MAPPED.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    sum(MAPPED[0][:: mmap.PAGESIZE])
    time.sleep(seconds / 2)
