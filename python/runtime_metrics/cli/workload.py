"""The busy program of `runtime-metrics demo`: each phase moves other metrics.

It ends with its standard input, at SIGTERM or after the seconds given as its argument, always by a normal
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
    """Works until asked to end."""
    RuntimeMetrics.enable(flush_interval=1.0)
    deadline = time.monotonic() + float(sys.argv[1]) if len(sys.argv) > 1 else float("inf")
    asked_to_end: list[bool] = []
    signal.signal(signal.SIGTERM, lambda _number, _frame: asked_to_end.append(True))
    threading.Thread(target=_await_end_of_input, args=(asked_to_end,), daemon=True).start()
    for phase in itertools.cycle((computing, allocating, entangling, crowding, resting)):
        phase_end = time.monotonic() + PHASE_SECONDS
        for _ in phase():
            if asked_to_end or time.monotonic() >= deadline:
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
    """Takes memory step by step and gives it back at the end of the phase: mem.rss, cpu.time.sys."""
    held = []
    while True:
        # Written to, not only reserved: a page nobody touched is not resident.
        held.append(b"x" * (2 << 20))
        time.sleep(STEP_SECONDS)
        yield


def entangling() -> Iterator[None]:
    """Leaves objects that refer to themselves, which only the collector frees: gc.*."""
    kept: list[object] = []
    while True:
        for _ in range(5000):
            knot: list[object] = []
            knot.append(knot)
        # Some stay and grow old: a full collection waits until enough of them have come since the last one.
        kept.append([[] for _ in range(4000)])
        time.sleep(STEP_SECONDS)
        yield


def crowding() -> Iterator[None]:
    """Starts a thread at each step and lets all of them go at the end: thread_count, voluntary switches."""
    over = threading.Event()
    crowd: list[threading.Thread] = []
    try:
        while True:
            crowd.append(threading.Thread(target=_stay, args=(over,)))
            crowd[-1].start()
            time.sleep(STEP_SECONDS)
            yield
    finally:
        over.set()
        for thread in crowd:
            thread.join()


def resting() -> Iterator[None]:
    """Does nothing: what is left is the cost of being measured."""
    while True:
        time.sleep(STEP_SECONDS)
        yield


def _stay(over: threading.Event) -> None:
    while not over.wait(STEP_SECONDS):
        pass


def _await_end_of_input(asked_to_end: list[bool]) -> None:
    # Not sys.stdin: a thread that holds its lock while the interpreter ends is a fatal error.
    while os.read(0, 1024):
        pass
    asked_to_end.append(True)


if __name__ == "__main__":
    main()
