"""A busy program: the main thread does nothing but read the clock, and measures its longest pause.

Another thread executes the commands of the test, one in a line, and answers each with what has happened so far.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import resource
import sys
import threading
from contextlib import suppress
from time import perf_counter_ns
from typing import TYPE_CHECKING

from runtime_metrics import RuntimeMetrics

if TYPE_CHECKING:
    from collections.abc import Callable

MIN_GAP = 100_000  # ns


class Log(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        """Nothing has been logged yet."""
        super().__init__()
        self.messages: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps one message."""
        self.messages.append((record.levelname, record.getMessage()))


class Watch:
    """A thread that does nothing but read the clock."""

    def __init__(self) -> None:
        """The thread that makes it must be the one that watches."""
        self.is_over = False
        self.longest_pause = 0

    def run(self) -> None:
        """Enables metrics, and reads the clock until it is over.

        A pause is a gap between two readings in which the thread slept: it waited for something. Without a sleep, the
        scheduler took the time. Nor does a pause contain the time in which this thread, or the one that it waited for,
        was ready to run and had no core.
        """
        last, slept, queued = perf_counter_ns(), sleeps(), queued_for_a_core()
        RuntimeMetrics.enable()
        while not self.is_over:
            now = perf_counter_ns()
            if now - last > MIN_GAP:
                before = slept, queued
                slept, queued = sleeps(), queued_for_a_core()
                if slept > before[0]:
                    self.longest_pause = max(self.longest_pause, now - last - (queued - before[1]))
            last = now


def queued_for_a_core() -> int:
    """Nanoseconds that threads of this process were ready to run and had no core, all threads together."""
    nanoseconds = 0
    for task in os.listdir("/proc/self/task"):
        with (
            suppress(FileNotFoundError, ProcessLookupError),
            open(f"/proc/self/task/{task}/schedstat") as schedstat,
        ):
            nanoseconds += int(schedstat.read().split()[1])
    return nanoseconds


def sleeps() -> int:
    """How often this thread has given up its core voluntarily."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def execute_commands(watch: Watch, log: Log) -> None:
    """Executes commands until standard input ends."""
    for line in sys.stdin:
        command, _, times = line.strip().partition(" ")
        for _ in range(int(times or 1)):
            COMMANDS[command]()
        facts = {
            "status": RuntimeMetrics.status(),
            "logged": log.messages,
            "longest_pause": watch.longest_pause / 1e9,
        }
        print(json.dumps(facts), flush=True)
    watch.is_over = True


COMMANDS: dict[str, Callable[[], object]] = {
    "report": lambda: None,
    "collect": gc.collect,
    "flush": RuntimeMetrics.flush,
}


def become(user: int) -> None:
    """Drops the rights of root."""
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)


if __name__ == "__main__":
    # Only the test triggers collections.
    gc.disable()
    if len(sys.argv) > 1:
        become(int(sys.argv[1]))
    log = Log()
    logger = logging.getLogger("runtime_metrics")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(log)
    watch = Watch()
    commands = threading.Thread(target=execute_commands, args=[watch, log])
    commands.start()
    watch.run()
    commands.join()
