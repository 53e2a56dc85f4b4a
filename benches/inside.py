"""The measures that are taken in the subject's process. Prints one JSON object.

    python inside.py SUBJECT MEASURE

Each needs a fresh process that has not imported the subject yet.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import socket
import sys
import time
import warnings
from statistics import median
from typing import TYPE_CHECKING

import pauses
from subjects import load

if TYPE_CHECKING:
    from collections.abc import Callable

    Figures = dict[str, float]


def tick(name: str, blocks: int = 5, ticks: int = 1000) -> Figures:
    """CPU of one warm tick in microseconds: of the thread that ticks, and of the whole process."""
    os.sched_setaffinity(0, pauses.last_core())
    subject = load(name)
    subject.enable()
    repeat(subject.tick, 200)
    thread, process = [], []
    for _ in range(blocks):
        thread_before, process_before = cpu_us(resource.RUSAGE_THREAD), cpu_us(resource.RUSAGE_SELF)
        repeat(subject.tick, ticks)
        thread.append((cpu_us(resource.RUSAGE_THREAD) - thread_before) / ticks)
        process.append((cpu_us(resource.RUSAGE_SELF) - process_before) / ticks)
    return {"thread_us": median(thread), "process_us": median(process)}


def cpu_us(whose: int) -> float:
    """User and system time used so far."""
    used = resource.getrusage(whose)
    return (used.ru_utime + used.ru_stime) * 1e6


def repeat(run: Callable[[], object], times: int) -> None:
    """Calls `run` so many times."""
    for _ in range(times):
        run()


def only_ticks(name: str, ticks: str) -> Figures:
    """Ticks to be counted from outside: two such runs differ by the instructions of their ticks."""
    subject = load(name)
    subject.enable()
    repeat(subject.tick, int(ticks))
    return {}


def marked_ticks(name: str, ticks: str) -> Figures:
    """Warm ticks between two `getsid` system calls, which mark them in a trace."""
    subject = load(name)
    subject.enable()
    repeat(subject.tick, 50)
    os.getsid(0)
    repeat(subject.tick, int(ticks))
    os.getsid(0)
    return {}


def wire(name: str, ticks: int = 20) -> Figures:
    """Datagrams, bytes and samples that one tick puts on the wire."""
    with listening() as inbox:
        subject = load(name)
        subject.enable()
        repeat(subject.tick, 3)
        pauses.received(inbox)
        each = []
        for _ in range(ticks):
            subject.tick()
            each.append(pauses.received(inbox))
    return {
        "datagrams": median(len(datagrams) for datagrams in each),
        "bytes": median(sum(map(len, datagrams)) for datagrams in each),
        "samples": median(sum(len(d.splitlines()) for d in datagrams) for datagrams in each),
    }


def gc_callback(name: str, pairs: int = 40, collections: int = 500) -> Figures:
    """Nanoseconds that enable adds to one young collection, from neighbouring blocks with and without it."""
    return {"gc_callback_ns": added_by_enable(name, lambda: collection_ns(collections), pairs)}


def added_by_enable(name: str, measured: Callable[[], float], pairs: int) -> float:
    """How much larger a figure is with the subject enabled: the median over pairs of neighbouring blocks."""
    subject = load(name)
    added = []
    for _ in range(pairs):
        without = measured()
        subject.enable()
        added.append(measured() - without)
        subject.disable()
    return median(added)


def collection_ns(collections: int) -> float:
    """Mean time of one collection of an almost empty young generation."""
    began = time.perf_counter_ns()
    for _ in range(collections):
        gc.collect(0)
    return (time.perf_counter_ns() - began) / collections


def fork(name: str, pairs: int = 15, forks: int = 20) -> Figures:
    """Microseconds that enable adds to one fork in the parent, from neighbouring blocks with and without it."""
    warnings.simplefilter("ignore", DeprecationWarning)  # printing a warning would be measured, too
    with listening():
        return {"fork_us": added_by_enable(name, lambda: fork_us(forks), pairs)}


def fork_us(forks: int) -> float:
    """Median time of a call of `os.fork` in the parent; the child has ended before the next one."""
    durations = []
    for _ in range(forks):
        began = time.perf_counter_ns()
        child = os.fork()
        if child == 0:
            os._exit(0)
        durations.append(time.perf_counter_ns() - began)
        os.waitpid(child, 0)
        time.sleep(0.001)  # for what the fork hooks have started
    return median(durations) / 1e3


def flush_pause(name: str) -> Figures:
    """Pause of a busy main thread when another Python thread triggers a tick."""
    with listening():
        subject = load(name)
        subject.enable()
        repeat(subject.tick, 50)
        return pauses.of_flush(subject)


def automatic_pause(name: str) -> Figures:
    """Pause of a busy main thread when the subject ticks by itself."""
    with listening() as inbox:
        return pauses.of_automatic_tick(load(name), inbox)


def listening() -> socket.socket:
    """The socket that the subject sends to: in this process, and no thread waits on it.

    A receiver that woke up for each datagram would compete with the ticking thread for its core.
    """
    inbox = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    inbox.bind(("127.0.0.1", 0))
    inbox.setblocking(False)
    inbox.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    os.environ["DD_DOGSTATSD_PORT"] = str(inbox.getsockname()[1])
    return inbox


MEASURES: dict[str, Callable[..., Figures]] = {
    measure.__name__: measure
    for measure in (
        tick,
        only_ticks,
        marked_ticks,
        wire,
        gc_callback,
        fork,
        flush_pause,
        automatic_pause,
    )
}

if __name__ == "__main__":
    print(json.dumps(MEASURES[sys.argv[2]](sys.argv[1], *sys.argv[3:])), flush=True)
    os._exit(0)
