"""Much memory is used for a moment, between two looks at it: it can end a container all the same."""

from __future__ import annotations

import time

METRICS = ("mem.rss", "mem.rss.peak", "mem.headroom.percent")
LOOK_AT = "mem.rss.peak rises and stays. mem.rss, which is looked at once in an interval, does not show it."


def provoke(seconds: float) -> None:
    """Allocates 200 MB, frees them, and waits."""
    memory = b"x" * 200_000_000
    del memory
    time.sleep(seconds)
