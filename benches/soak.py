"""Whether memory and descriptors stay as they are: flushes of the standard level, between them work chosen at random.

Prints the resident set and the number of open descriptors after each tenth of the ticks. `--bare` does the same work
without us, to compare with: what such work costs the allocators is not ours.

    python benches/soak.py 50000
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import random
import socket
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from runtime_metrics import RuntimeMetrics

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = os.sysconf("SC_PAGE_SIZE")
CHOICE = random.Random(1)


def threads() -> None:
    """Threads begin and end, some by an exception."""

    def work(fails: bool) -> None:
        sum(range(100))
        if fails:
            raise ValueError("a thread fails")

    started = [
        threading.Thread(target=work, args=[CHOICE.random() < 0.2]) for _ in range(CHOICE.randint(1, 6))
    ]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()


def event_loops() -> None:
    """Event loops run and are closed; tasks fail and nobody asks for their exceptions."""

    async def fail() -> None:
        raise ValueError("a task fails")

    async def main() -> None:
        for _ in range(CHOICE.randint(0, 20)):
            tasks.append(asyncio.create_task(asyncio.sleep(0)))
        if CHOICE.random() < 0.3:
            tasks.append(asyncio.create_task(fail()))
        flush()
        await asyncio.sleep(0.001)

    for _ in range(CHOICE.randint(1, 2)):
        tasks: list[asyncio.Task[None]] = []
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda *_: None)
        loop.run_until_complete(main())
        tasks.clear()
        loop.close()


def executors() -> None:
    """Pools of threads work and are shut down."""
    with ThreadPoolExecutor(CHOICE.randint(1, 4)) as pool:
        futures = [pool.submit(sum, range(100)) for _ in range(CHOICE.randint(1, 30))]
        flush()
        assert all(future.result() == 4950 for future in futures)


def sockets() -> None:
    """Listeners over TCP and Unix sockets, with connections that wait, are closed."""
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(f"{folder}/socket")
        unix.listen()
        for _ in range(CHOICE.randint(0, 3)):
            stack.enter_context(socket.create_connection(listening.getsockname()))
            stack.enter_context(socket.socket(socket.AF_UNIX)).connect(f"{folder}/socket")
        flush()


def files() -> None:
    """Files are opened and closed."""
    with contextlib.ExitStack() as stack:
        for _ in range(CHOICE.randint(1, 50)):
            stack.enter_context(open(os.devnull, "rb"))
        flush()


def exceptions() -> None:
    """Finalisers fail, and hooks for exceptions are replaced by others and taken away."""

    class Failing:
        def __del__(self) -> None:
            raise ValueError("a finaliser fails")

    Failing()
    before = sys.excepthook
    sys.excepthook = lambda *_: None
    flush()
    sys.excepthook = before


def garbage() -> None:
    """Objects refer to each other, and are collected."""
    for _ in range(CHOICE.randint(1, 1000)):
        knot: list[object] = []
        knot.append(knot)
    gc.collect(CHOICE.randint(0, 2))


def forks() -> None:
    """A child does the same for a while, and ends."""
    if (child := os.fork()) == 0:
        try:
            event_loops()
            flush()
            RuntimeMetrics.disable()
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def inspections() -> None:
    """What is known is looked at."""
    RuntimeMetrics.snapshot()
    RuntimeMetrics.status()


def restarts() -> None:
    """Metrics are disabled and enabled again."""
    RuntimeMetrics.disable()
    enable()


# How often each is done, of so many times.
WORK: dict[Callable[[], None], int] = {
    threads: 20,
    event_loops: 20,
    executors: 10,
    sockets: 10,
    files: 10,
    exceptions: 10,
    garbage: 10,
    inspections: 7,
    forks: 2,
    restarts: 1,
}


def flush() -> None:
    """One tick."""
    global ticks
    ticks += 1
    if not OPTIONS.bare:
        RuntimeMetrics.flush()


def enable() -> None:
    """Metrics go to a receiver that does not read: the kernel drops what is too much."""
    if not OPTIONS.bare:
        RuntimeMetrics.enable(dogstatsd_url=url, flush_interval=60, level="standard")


def used() -> dict[str, int]:
    """The resident set in bytes, and the number of open descriptors."""
    gc.collect()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
    # One of them is the one that lists.
    return {"rss": resident, "descriptors": len(os.listdir("/proc/self/fd")) - 1}


def main() -> None:
    """Runs, and prints what is used after each tenth."""
    threading.excepthook = lambda _: None
    sys.unraisablehook = lambda _: None
    enable()
    for tenth in range(1, 11):
        while ticks < OPTIONS.ticks * tenth // 10:
            (work,) = CHOICE.choices(list(WORK), list(WORK.values()))
            work()
            flush()
        print(json.dumps({"ticks": ticks, **used()}), flush=True)
    RuntimeMetrics.disable()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ticks", type=int)
    parser.add_argument("--bare", action="store_true")
    OPTIONS = parser.parse_args()
    ticks = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        url = f"udp://127.0.0.1:{receiver.getsockname()[1]}"
        main()
