"""Several threads compute at once, of which the GIL lets one run at a time."""

from __future__ import annotations

import threading
import time

METRICS = ("gil.wait.*", "cpu.percent", "cpu.thread.max_percent")
LOOK_AT = "gil.wait.p95 is many times 5 ms, while all threads together use no more than one CPU."


def provoke(seconds: float) -> None:
    """Computes in four threads."""
    end = time.monotonic() + seconds

    def compute() -> None:
        while time.monotonic() < end:
            sum(range(1000))

    threads = [threading.Thread(target=compute) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
