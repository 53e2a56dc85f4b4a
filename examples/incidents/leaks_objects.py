"""Python objects are kept that nobody needs any more, as in a cache without a limit."""

from __future__ import annotations

import time

METRICS = ("mem.rss", "mem.rss.anon", "mem.python.blocks", "mem.headroom.percent", "mem.limit_hits")
LOOK_AT = "mem.python.blocks grows together with mem.rss.anon: it is Python's memory."

KEPT: list[list[str]] = []


def provoke(seconds: float) -> None:
    """Keeps some 20 MB more."""
    for part in range(10):
        KEPT.append([f"{part}-{number}" for number in range(30_000)])
        time.sleep(seconds / 10)
