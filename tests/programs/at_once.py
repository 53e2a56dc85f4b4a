"""Threads enable, disable, flush, read, fork and collect at once, for as many seconds as the command line says.

There are two kinds of rounds. In one, threads enable and disable metrics all the time, and afterwards nothing of ours
may be left. In the other, metrics stay enabled, and what was sent has to be what this program has counted itself. The
process prints how often each thing was done, and what was wrong.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import random
import re
import signal
import socket
import sys
import threading
import time
import types
import warnings
from collections import Counter
from typing import TYPE_CHECKING, NoReturn

from runtime_metrics import RuntimeMetrics

if TYPE_CHECKING:
    from collections.abc import Callable

# How long a round takes, and how long to wait for anything.
ROUND, TIMEOUT = 1.0, 60
CALLBACK = "GcCallback"
VALUE = re.compile(
    r"runtime\.python\.(gc\.collections\.gen[012]|exceptions\.uncaught):([0-9.]+)\|d\|#([^|\n]*)"
)

wrong: list[str] = []
done = Counter[str]()
lock = threading.Lock()


def do(what: str, times: int = 1) -> None:
    """Counts something that was done."""
    with lock:
        done[what] += times


def check(fine: bool, text: object) -> None:
    """Notes what is wrong."""
    if not fine and len(wrong) < 20:
        wrong.append(str(text))


def ours() -> int:
    """How many callbacks of ours collections call."""
    # To copy the list would need its lock, which a fork could leave locked in the child.
    return sum(type(getattr(entry, "__self__", None)).__name__ == CALLBACK for entry in gc.callbacks)


class Program:
    """What the program has of its own: counts, hooks, a log, a receiver."""

    def __init__(self) -> None:
        """Installs its hooks, before ours."""
        self.collections = [0, 0, 0]
        self.uncaught = 0
        self.answer = -1
        self.is_alone = False
        self.received: list[str] = []
        self.receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.receiver.settimeout(0.05)
        self.receiver.bind(("127.0.0.1", 0))
        self.url = f"udp://127.0.0.1:{self.receiver.getsockname()[1]}"
        gc.callbacks.append(self.collected)
        threading.excepthook = self.excepthook
        warnings.simplefilter("always")
        warnings.showwarning = self.warned
        handler = logging.Handler(logging.WARNING)
        handler.emit = self.logged  # type: ignore[method-assign]
        logging.getLogger("runtime_metrics").addHandler(handler)

    def collected(self, phase: str, info: dict[str, int]) -> None:
        """Counts a collection; there is never more than one at a time."""
        if phase == "stop":
            self.collections[info["generation"]] += 1

    def excepthook(self, _details: object) -> None:
        """Counts a thread that an exception has ended."""
        with lock:
            self.uncaught += 1

    def warned(self, message: object, *_details: object, **_more: object) -> None:
        """CPython warns about forks in a process with threads: this one has some of its own, but not always."""
        check(not self.is_alone and "fork" in str(message), message)

    def logged(self, record: logging.LogRecord) -> None:
        """There is nothing to log but that a machine is slow."""
        check("which is too long" in record.getMessage(), record.getMessage())

    def enable(self) -> None:
        """Enables metrics, always in the same way."""
        RuntimeMetrics.enable(dogstatsd_url=self.url, flush_interval=0.1, level="standard")
        do("enable")

    def receive(self) -> None:
        """Receives what arrives soon."""
        try:
            while True:
                self.received.append(self.receiver.recv(65536).decode())
        except TimeoutError:
            pass


class Threads:
    """Threads that do something again and again until they are ended."""

    def __init__(self, *work: Callable[[], object]) -> None:
        """Starts them."""
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._repeat, args=[what]) for what in work]
        for thread in self._threads:
            thread.start()

    def _repeat(self, what: Callable[[], object]) -> None:
        try:
            while not self._over.is_set():
                what()
        except Exception as error:
            check(False, repr(error))

    def end(self) -> None:
        """Ends them."""
        self._over.set()
        for thread in self._threads:
            thread.join(TIMEOUT)
            check(not thread.is_alive(), f"{thread.name} hangs")


class Loop:
    """An event loop in a thread, which has what it always had when metrics are disabled."""

    def __init__(self) -> None:
        """Starts it, and waits until it runs."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        async def work() -> None:
            while True:
                await asyncio.sleep(0.001)

        task = self._loop.create_task(work())
        self._loop.run_forever()
        task.cancel()
        self._loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        self._loop.close()

    def is_untouched(self) -> bool:
        """Whether nothing of ours is in it."""
        selector = vars(vars(self._loop)["_selector"])
        return self._loop.get_exception_handler() is None and "select" not in selector

    def end(self) -> None:
        """Stops it."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(TIMEOUT)
        check(not self._thread.is_alive(), "the event loop hangs")


def wait_until(condition: Callable[[], bool], text: str) -> None:
    """Waits for something to become so."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            check(False, text)
            return
        time.sleep(0.001)


def is_single_threaded() -> bool:
    """Whether the kernel counts one thread."""
    return len(os.listdir("/proc/self/task")) == 1


def is_thread_count_right() -> bool:
    """Whether we count the threads that the kernel counts."""
    return RuntimeMetrics.snapshot()["runtime.python.thread_count"] == len(os.listdir("/proc/self/task"))


def collect() -> None:
    """Collects, and makes what a collection that comes by itself finds."""
    for generation in range(3):
        gc.collect(generation)
        do("collection")
    for _ in range(3000):
        garbage: list[object] = []
        garbage.append(garbage)


def look() -> None:
    """Never is there more than one callback of ours."""
    count = ours()
    check(count <= 1, f"{count} callbacks")
    time.sleep(0.0005)


def read() -> None:
    """Reads."""
    values = RuntimeMetrics.snapshot()
    check(all(value >= 0 for name, value in values.items() if "gc.count" not in name), values)
    RuntimeMetrics.status()
    do("snapshot")
    time.sleep(0.001)


def flush() -> None:
    """Flushes."""
    do("flush", RuntimeMetrics.flush())
    time.sleep(0.005)


def fail() -> None:
    """A thread is ended by an exception."""

    def work() -> None:
        raise ValueError

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    do("uncaught exception")


def in_child(is_reporting: bool) -> NoReturn:
    """The child can do all that its parent can."""
    signal.alarm(TIMEOUT)
    status = 1
    try:
        gc.collect()
        if ours() <= 1 and bool(RuntimeMetrics.snapshot()) >= is_reporting:
            RuntimeMetrics.disable()
            status = 2 * (ours() > 0)
    finally:
        os._exit(status)


def fork(is_reporting: bool) -> None:
    """Forks, and waits for the child."""
    if (pid := os.fork()) == 0:
        in_child(is_reporting)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    check(code == 0, f"a child ended with {code}")
    do("fork")


def switch(program: Program) -> None:
    """Enables and disables, with a pause in between now and then."""
    program.enable()
    time.sleep(random.choice((0, 0, 0.001, 0.02)))
    RuntimeMetrics.disable()
    time.sleep(random.choice((0, 0, 0.001)))


def set_hook(program: Program) -> None:
    """Sets a hook that counts, as a program may at any time."""
    done["hook"] += 1
    number = done["hook"]

    def hook(_details: object) -> None:
        program.answer = number

    sys.unraisablehook = hook
    time.sleep(0.0005)


def round_of_changes(program: Program) -> None:
    """Threads enable and disable metrics; afterwards all is as it was before."""
    loop = Loop()
    work = [look, read, flush, collect, collect, fail, lambda: fork(False)]
    threads = Threads(*work, *[lambda: switch(program)] * 3, lambda: set_hook(program))
    time.sleep(ROUND)
    threads.end()
    RuntimeMetrics.disable()
    check(ours() == 0, f"{ours()} callbacks are left")
    check(sys.excepthook is sys.__excepthook__, "sys.excepthook is another")
    check(threading.excepthook == program.excepthook, "threading.excepthook is another")
    sys.unraisablehook(types.SimpleNamespace(exc_type=ValueError))
    check(program.answer == done["hook"], f"hook {program.answer} instead of {done['hook']}")
    sys.unraisablehook = sys.__unraisablehook__
    wait_until(loop.is_untouched, "the event loop is not as it was")
    loop.end()
    wait_until(is_single_threaded, "a thread of ours is left")


def round_of_counts(program: Program) -> None:
    """What is sent is what the program has counted."""
    program.receive()
    program.received.clear()
    program.enable()
    check(ours() == 1, f"{ours()} callbacks")
    program.is_alone = True
    for _ in range(3):
        fork(True)
    program.is_alone = False
    gc.disable()
    before, failed = list(program.collections), program.uncaught
    # From here on, as until now nothing was collected in this process.
    wait_until(RuntimeMetrics.flush, "no flush succeeds")
    sent = RuntimeMetrics.status()["packets_sent"]
    program.receive()
    (own,) = set(re.findall(r"runtime-id:([0-9a-f]+)", program.received[-1]))
    program.received.clear()
    gc.enable()
    threads = Threads(program.receive, look, read, flush, collect, collect, fail, lambda: fork(True))
    time.sleep(ROUND)
    threads.end()
    gc.disable()
    expected = [now - then for now, then in zip(program.collections, before, strict=True)]
    expected.append(program.uncaught - failed)
    wait_until(RuntimeMetrics.flush, "no flush succeeds")
    # A thread that was joined may take a moment to end.
    wait_until(is_thread_count_right, "threads are not counted rightly")
    sent = RuntimeMetrics.status()["packets_sent"] - sent
    RuntimeMetrics.disable()
    gc.enable()
    program.receive()
    arrived = [datagram for datagram in program.received if f"runtime-id:{own}" in datagram]
    check(ours() == 0, f"{ours()} callbacks are left")
    wait_until(is_single_threaded, "a thread of ours is left")
    # The last sample is sent after the number of packets was read.
    if len(arrived) < sent:
        do("round in which the receiver was too slow")
        return
    sums = Counter[str]()
    for name, value, tags in VALUE.findall("\n".join(arrived)):
        sums[name] += round(float(value)) * ("source:main" not in tags)
    counted = [sums[f"gc.collections.gen{generation}"] for generation in range(3)]
    counted.append(sums["exceptions.uncaught"])
    check(counted == expected, f"counted {counted}, not {expected}")
    do("round of counts")
    do("collection that was counted", sum(expected[:3]))


def main(seconds: float) -> None:
    """Goes on for as long as is asked for, and prints."""
    program = Program()
    end = time.monotonic() + seconds
    while time.monotonic() < end and not wrong:
        round_of_changes(program)
        round_of_counts(program)
        do("round of changes")
    is_gil_enabled = getattr(sys, "_is_gil_enabled", lambda: True)()
    print(json.dumps({"wrong": wrong, "done": done, "is_gil_enabled": is_gil_enabled}))


if __name__ == "__main__":
    main(float(sys.argv[1]))
