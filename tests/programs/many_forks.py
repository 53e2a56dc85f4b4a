"""Forks thousands of times while other threads of the process allocate, collect and flush.

The command line says how often, and in which circumstances; the process reports how the children ended.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import signal
import sys
import threading
import time
import warnings
from collections import Counter
from typing import NoReturn

from reporting import TIMEOUT, links, report

from runtime_metrics import RuntimeMetrics

# How many children may live at the same time.
MAX_CHILDREN = 4
# The exit status of a child that has inherited one of our descriptors.
SHARED = 3

# Modules that register Python hooks for forks, or import such.
HOOKING = ["logging", "random", "threading", "concurrent.futures.thread", "multiprocessing.util", "asyncio"]


class BusyThreads:
    """Threads that are always busy."""

    def __init__(self) -> None:
        """None runs yet."""
        self.flushes = Counter[bool]()
        self._over = threading.Event()
        work = (self._allocate, self._collect, self._flush)
        self._threads = [threading.Thread(target=thread, daemon=True) for thread in work]

    def start(self) -> None:
        """Starts them."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends them."""
        self._over.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(TIMEOUT)

    def _allocate(self) -> None:
        while not self._over.wait(0.0001):
            kept: list[object] = []
            for _ in range(1000):
                kept.append([kept])

    def _collect(self) -> None:
        while not self._over.wait(0.001):
            gc.collect(1)

    def _flush(self) -> None:
        while not self._over.wait(0.001):
            self.flushes[RuntimeMetrics.flush()] += 1


class Children:
    """Forks children, and makes sure that each of them ends."""

    def __init__(self, ours: set[str], by_thread: bool) -> None:
        """There are none yet; `ours` is what no child may inherit."""
        self._by_thread = by_thread
        self.statuses = Counter[str]()
        self._ours = ours
        self._alive: dict[int, float] = {}

    def fork(self, times: int) -> None:
        """Forks so many children, a few of them at the same time."""
        for _ in range(times):
            pid = os.fork()
            if pid == 0:
                self._end()
            self._alive[pid] = time.monotonic()
            self._reap(MAX_CHILDREN - 1)
        self._reap(0)

    def _end(self) -> NoReturn:
        status = SHARED if self._ours & set(links()) else 0
        if self._by_thread:
            # A thread other than the main one runs no exit handlers.
            RuntimeMetrics.disable()
            os._exit(status)
        sys.exit(status)

    def _reap(self, left: int) -> None:
        """Waits until no more than so many are left; kills those that hang."""
        while len(self._alive) > left:
            for child, since in list(self._alive.items()):
                pid, status = os.waitpid(child, os.WNOHANG)
                if pid:
                    del self._alive[child]
                    code = os.waitstatus_to_exitcode(status)
                    self.statuses[{0: "ended", SHARED: "shared", -9: "hung"}.get(code, str(code))] += 1
                elif time.monotonic() - since > TIMEOUT:
                    os.kill(child, signal.SIGKILL)
            time.sleep(0.0002)


def main() -> None:
    """Forks and reports how the children ended."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("forks", type=int)
    arguments.add_argument(
        "--threads", type=int, default=0, help="that fork; without any the main thread does"
    )
    for option in ("--bare", "--busy"):
        arguments.add_argument(option, action="store_true")
    arguments.add_argument("--modules", choices=["before", "after", "never"], default="never")
    chosen = arguments.parse_args()

    messages: list[str] = []
    warnings.simplefilter("always")
    warnings.showwarning = lambda message, *_args, **_kwargs: messages.append(str(message))
    before = set(links())
    if chosen.modules == "before":
        import_hooking()
    if not chosen.bare:
        RuntimeMetrics.enable()
        assert RuntimeMetrics.flush()
    ours = set(links()) - before
    if chosen.modules == "after":
        import_hooking()

    busy_threads = BusyThreads()
    if chosen.busy:
        busy_threads.start()
    statuses = Counter[str]()
    start = time.monotonic()
    if chosen.threads:
        share = chosen.forks // chosen.threads
        families = [Children(ours, by_thread=True) for _ in range(chosen.threads)]
        threads = [threading.Thread(target=children.fork, args=[share]) for children in families]
        for thread in threads:
            thread.start()
        for thread, children in zip(threads, families, strict=True):
            thread.join()
            statuses += children.statuses
    else:
        children = Children(ours, by_thread=False)
        children.fork(chosen.forks)
        statuses += children.statuses
    seconds = time.monotonic() - start
    busy_threads.stop()
    RuntimeMetrics.disable()
    report(
        "parent",
        statuses=statuses,
        # The first flush, those of the busy threads, and the last sample.
        asked_for=1 + busy_threads.flushes[True] + 1,
        seconds=seconds,
        warnings=len(messages),
        kinds=sorted({text.partition("(")[0] for text in messages}),
    )


def import_hooking() -> None:
    """Imports the modules whose hooks are to run before ours, or after."""
    for module in HOOKING:
        importlib.import_module(module)


if __name__ == "__main__":
    main()
