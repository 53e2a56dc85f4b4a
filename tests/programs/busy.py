"""A busy program: the main thread does nothing but read the clock, and knows how long it stood still.

Another thread does what the test asks for, a line at a time, and answers each with what has happened so far.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import resource
import sys
import threading
from time import perf_counter_ns
from typing import TYPE_CHECKING

from runtime_metrics import RuntimeMetrics

if TYPE_CHECKING:
    from collections.abc import Callable

SHORTEST_GAP = 100_000  # ns


class Said(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        """Nothing has been said yet."""
        super().__init__()
        self.messages: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps one message."""
        self.messages.append((record.levelname, record.getMessage()))


class Watch:
    """A thread that looks at the clock all the time, and at nothing else."""

    def __init__(self) -> None:
        """To be made by the thread that watches."""
        self.is_over = False
        self.longest = 0
        self._schedstat = os.open("/proc/thread-self/schedstat", os.O_RDONLY)

    def stand(self) -> None:
        """Enables metrics and watches, until it is over.

        A pause is a gap between two looks in which the thread went to sleep: it waited for something. Otherwise the
        machine took the time. That it also waited for a core at the end of its sleep is not part of the pause.
        """
        last, slept, queued = perf_counter_ns(), sleeps(), self._queued()
        RuntimeMetrics.enable()
        while not self.is_over:
            now = perf_counter_ns()
            if now - last > SHORTEST_GAP:
                before = slept, queued
                slept, queued = sleeps(), self._queued()
                if slept > before[0]:
                    self.longest = max(self.longest, now - last - (queued - before[1]))
            last = now

    def _queued(self) -> int:
        """Nanoseconds that the thread was ready and had no core."""
        return int(os.pread(self._schedstat, 100, 0).split()[1])


def sleeps() -> int:
    """How often this thread gave up its core by itself."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def obey(watch: Watch, said: Said) -> None:
    """Does what it is asked for until there are no more questions."""
    for line in sys.stdin:
        order, _, times = line.strip().partition(" ")
        for _ in range(int(times or 1)):
            ORDERS[order]()
        facts = {"status": RuntimeMetrics.status(), "said": said.messages, "longest": watch.longest / 1e9}
        print(json.dumps(facts), flush=True)
    watch.is_over = True


ORDERS: dict[str, Callable[[], object]] = {
    "report": lambda: None,
    "collect": gc.collect,
    "flush": RuntimeMetrics.flush,
}


def become(user: int) -> None:
    """Gives up the rights of the administrator."""
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)


if __name__ == "__main__":
    # Collections are the test's to ask for.
    gc.disable()
    if len(sys.argv) > 1:
        become(int(sys.argv[1]))
    said = Said()
    logger = logging.getLogger("runtime_metrics")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(said)
    watch = Watch()
    obeying = threading.Thread(target=obey, args=[watch, said])
    obeying.start()
    watch.stand()
    obeying.join()
