"""More work is submitted to a thread pool than its threads can do."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

METRICS = ("executor.queue_depth", "thread_count", "gil.wait.max")
LOOK_AT = "executor.queue_depth is the number of calls that wait for a thread."


def provoke(seconds: float) -> None:
    """Submits 20 calls to 2 threads."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        for _ in range(20):
            pool.submit(time.sleep, seconds / 10)
