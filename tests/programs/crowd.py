"""Forks by the thousand, in a process whose other threads allocate, collect and flush all the while.

The command line says how often, and in which circumstances; the process tells what it has seen.
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

from telling import PATIENCE, links, tell

from runtime_metrics import RuntimeMetrics

# Children that live at the same time, at most.
TOGETHER = 4
SHARED = 3

# Modules with Python hooks at fork, or which import some that have.
HOOKING = ["logging", "random", "threading", "concurrent.futures.thread", "multiprocessing.util", "asyncio"]


class Crowd:
    """Threads that never rest."""

    def __init__(self) -> None:
        """None runs yet."""
        self.flushes = Counter[bool]()
        self._over = threading.Event()
        work = (self._allocate, self._collect, self._flush)
        self._threads = [threading.Thread(target=thread, daemon=True) for thread in work]

    def start(self) -> None:
        """Lets them run."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends them."""
        self._over.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(PATIENCE)

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
    """Forks, and sees to it that every child ends."""

    def __init__(self, ours: set[str], by_thread: bool) -> None:
        """None yet; `ours` is what no child may inherit."""
        self._by_thread = by_thread
        self.statuses = Counter[str]()
        self._ours = ours
        self._alive: dict[int, float] = {}

    def fork(self, times: int) -> None:
        """So many, a few of them at the same time."""
        for _ in range(times):
            pid = os.fork()
            if pid == 0:
                self._end()
            self._alive[pid] = time.monotonic()
            self._reap(TOGETHER - 1)
        self._reap(0)

    def _end(self) -> NoReturn:
        status = SHARED if self._ours & set(links()) else 0
        if self._by_thread:
            # What is no program's first thread runs no exit handlers.
            RuntimeMetrics.disable()
            os._exit(status)
        sys.exit(status)

    def _reap(self, left: int) -> None:
        """Waits until no more than so many are left; those that hang are killed."""
        while len(self._alive) > left:
            for child, since in list(self._alive.items()):
                pid, status = os.waitpid(child, os.WNOHANG)
                if pid:
                    del self._alive[child]
                    code = os.waitstatus_to_exitcode(status)
                    self.statuses[{0: "well", SHARED: "shared", -9: "hung"}.get(code, str(code))] += 1
                elif time.monotonic() - since > PATIENCE:
                    os.kill(child, signal.SIGKILL)
            time.sleep(0.0002)


def main() -> None:
    """Forks and tells how it went."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("forks", type=int)
    arguments.add_argument(
        "--threads", type=int, default=0, help="that fork; without any the main thread does"
    )
    for option in ("--bare", "--crowded"):
        arguments.add_argument(option, action="store_true")
    arguments.add_argument("--modules", choices=["before", "after", "never"], default="never")
    chosen = arguments.parse_args()

    said: list[str] = []
    warnings.simplefilter("always")
    warnings.showwarning = lambda message, *_args, **_kwargs: said.append(str(message))
    before = set(links())
    if chosen.modules == "before":
        import_hooking()
    if not chosen.bare:
        RuntimeMetrics.enable()
        assert RuntimeMetrics.flush()
    ours = set(links()) - before
    if chosen.modules == "after":
        import_hooking()

    crowd = Crowd()
    if chosen.crowded:
        crowd.start()
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
    crowd.stop()
    RuntimeMetrics.disable()
    tell(
        "parent",
        statuses=statuses,
        # The first one, those of the crowd, the last sample.
        asked_for=1 + crowd.flushes[True] + 1,
        seconds=seconds,
        warnings=len(said),
        kinds=sorted({text.partition("(")[0] for text in said}),
    )


def import_hooking() -> None:
    """Brings the hooks of other modules in before ours, or after."""
    for module in HOOKING:
        importlib.import_module(module)


if __name__ == "__main__":
    main()
