"""The busy program of `runtime-metrics demo`: each of its phases moves other metrics.

It ends at the end of its standard input, at SIGTERM, or after the seconds given as its argument, always by a normal
exit of the interpreter.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

from runtime_metrics import RuntimeMetrics

if TYPE_CHECKING:
    from collections.abc import Iterator

PHASE_SECONDS = 2.0
STEP_SECONDS = 0.04


def main() -> None:
    """Works until it is asked to stop."""
    RuntimeMetrics.enable(flush_interval=1.0)
    deadline = time.monotonic() + float(sys.argv[1]) if len(sys.argv) > 1 else float("inf")
    stop_requested: list[bool] = []
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop_requested.append(True))
    threading.Thread(target=_await_end_of_input, args=(stop_requested,), daemon=True).start()
    for phase in itertools.cycle((computing, allocating, creating_cycles, starting_threads, resting)):
        phase_end = time.monotonic() + PHASE_SECONDS
        for _ in phase():
            if stop_requested or time.monotonic() >= deadline:
                return
            if time.monotonic() >= phase_end:
                break


def computing() -> Iterator[None]:
    """Keeps one core busy: cpu.*, involuntary switches."""
    while True:
        end = time.monotonic() + STEP_SECONDS
        while time.monotonic() < end:
            sum(number * number for number in range(1000))
        yield


def allocating() -> Iterator[None]:
    """Allocates memory step by step and frees it at the end of the phase: mem.rss, cpu.time.sys."""
    held = []
    while True:
        # Written to, not only reserved: an untouched page is not resident.
        held.append(b"x" * (2 << 20))
        time.sleep(STEP_SECONDS)
        yield


def creating_cycles() -> Iterator[None]:
    """Creates reference cycles, which only the garbage collector frees: gc.*."""
    kept: list[object] = []
    while True:
        for _ in range(5000):
            cycle: list[object] = []
            cycle.append(cycle)
        # Some survive: a full collection runs only once enough objects have survived since the last one.
        kept.append([[] for _ in range(4000)])
        time.sleep(STEP_SECONDS)
        yield


def starting_threads() -> Iterator[None]:
    """Starts a thread at each step and joins them all at the end: thread_count, voluntary switches."""
    over = threading.Event()
    threads: list[threading.Thread] = []
    try:
        while True:
            threads.append(threading.Thread(target=_wait, args=(over,)))
            threads[-1].start()
            time.sleep(STEP_SECONDS)
            yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def resting() -> Iterator[None]:
    """Does nothing: what remains is the cost of the metrics."""
    while True:
        time.sleep(STEP_SECONDS)
        yield


def _wait(over: threading.Event) -> None:
    while not over.wait(STEP_SECONDS):
        pass


def _await_end_of_input(stop_requested: list[bool]) -> None:
    # Not sys.stdin: a thread that holds its lock at the interpreter's exit is a fatal error.
    while os.read(0, 1024):
        pass
    stop_requested.append(True)


if __name__ == "__main__":
    main()
