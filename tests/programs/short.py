"""Ends while the sampler ticks at its fastest and other threads keep allocating."""

from __future__ import annotations

import atexit
import gc
import sys
import threading
import time

from runtime_metrics import RuntimeMetrics

over = threading.Event()


def allocate() -> None:
    """Allocates until the exit handlers run."""
    while not over.is_set():
        kept: list[object] = []
        for _ in range(1000):
            kept.append([kept])


def main() -> None:
    """Runs for as long as the command line says."""
    gc.set_threshold(100)
    threads = [threading.Thread(target=allocate, daemon=True) for _ in range(2)]
    # Handlers run in reverse order: these after ours. CPython 3.10 itself crashes now and then, once in a thousand
    # times, if daemon threads still run when the interpreter is taken down.
    for thread in threads:
        atexit.register(thread.join)
    atexit.register(over.set)
    RuntimeMetrics.enable(flush_interval=0.01)
    for thread in threads:
        thread.start()
    time.sleep(float(sys.argv[1]))


if __name__ == "__main__":
    main()
