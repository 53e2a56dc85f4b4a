"""Files are opened and never closed."""

from __future__ import annotations

import os
import time

METRICS = ("fd.count", "fd.percent")
LOOK_AT = "fd.count grows. fd.percent says how near the limit is, at which the next open() or accept() fails."


def provoke(seconds: float) -> None:
    """Opens ten more."""
    for _ in range(10):
        os.open(os.devnull, os.O_RDONLY)
        time.sleep(seconds / 10)
