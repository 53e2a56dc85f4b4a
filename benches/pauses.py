"""How long a busy main thread pauses because another thread wakes.

The main thread only reads the clock. Two readings far apart are a gap. If the thread went to sleep in between, it
waited for another thread; if not, the machine took the time: an interrupt, another process, the hypervisor. Only waits
are caused by a tick; all gaps together show the noise of the machine.

Three modes take turns in short windows of one process: no wake-up, a Python thread wakes and does nothing, and the
tick. The windows are short so that whatever else happens on the machine affects all three.
"""

from __future__ import annotations

import os
import resource
import threading
import time
from array import array
from contextlib import contextmanager, suppress
from time import perf_counter_ns
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from subjects import Subject

    Span = tuple[int, int]  # begin and end on the clock

PERIOD = 10_000_000  # ns between two wakes
WINDOW = 20 * PERIOD
WINDOWS = 25
MIN_GAP = 10_000  # ns; releasing the GIL and getting it back hardly ever takes less


def of_flush(subject: Subject) -> dict[str, float]:
    """Pauses caused by a second Python thread that triggers a tick every period, in microseconds."""

    def wakes(run: Callable[[], object]) -> list[int]:
        with waking(run) as spans:
            _, waits = busy()
        return [longest_within(waits, span) for span in spans]

    modes = {"idle": undisturbed, "noop": lambda: wakes(nothing), "tick": lambda: wakes(subject.tick)}
    return by_turns(modes)


def of_automatic_tick(subject: Subject, inbox: socket.socket) -> dict[str, float]:
    """Pauses caused by the subject's own threads at an interval of one period, in microseconds.

    The moment of such a tick cannot be seen, but their number is known: as many of the window's longest waits are
    taken, for the no-op wake too. At the ends of a window a tick may be counted whose wait lies outside, so none is
    substituted for a tick without one.
    """

    def noop() -> list[int]:
        with waking(nothing) as spans:
            _, waits = busy()
        return longest(waits, len(spans))

    def ticks() -> list[int]:
        subject.enable(PERIOD / 1e9)
        time.sleep(5 * PERIOD / 1e9)
        settle_threads()
        received(inbox)
        _, waits = busy()
        count = sum(datagram.count(b"runtime.python.thread_count:") for datagram in received(inbox))
        subject.disable()
        if not count:
            raise RuntimeError("no automatic tick within a window")
        return longest(waits, count)

    return by_turns({"idle": undisturbed, "noop": noop, "tick": ticks})


def by_turns(modes: dict[str, Callable[[], list[int]]]) -> dict[str, float]:
    """Lets the modes take turns; returns p50 and p90 of each over all windows, and the ratios of tick to no-op."""
    settle_threads()
    order = list(modes)
    pauses: dict[str, list[int]] = {mode: [] for mode in modes}
    for turn in range(WINDOWS + 1):
        for mode in order:
            window = modes[mode]()
            if turn:  # the first one warms up
                pauses[mode] += window or [MIN_GAP]
        order.reverse()
    figures: dict[str, float] = {}
    for name, share in (("p50", 0.5), ("p90", 0.9)):
        for mode, lengths in pauses.items():
            figures[f"{mode}_{name}"] = sorted(lengths)[int(len(lengths) * share)] / 1e3
        figures[f"ratio_{name}"] = figures[f"tick_{name}"] / figures[f"noop_{name}"]
    return {**figures, "noops": len(pauses["noop"]), "ticks": len(pauses["tick"])}


def busy() -> tuple[list[Span], list[Span]]:
    """Reads the clock for one window; returns all gaps, and those in which this thread went to sleep."""
    # Arrays, unlike tuples, do not concern the garbage collector.
    begins, ends, sleeps = array("q"), array("q"), array("q")
    last = perf_counter_ns()
    end = last + WINDOW
    slept = sleeps_so_far()
    while last < end:
        now = perf_counter_ns()
        if now - last > MIN_GAP:
            begins.append(last)
            ends.append(now)
            sleeps.append(sleeps_so_far())
        last = now
    gaps = list(zip(begins, ends, strict=True))
    before = [slept, *sleeps]
    return gaps, [gap for gap, was, now in zip(gaps, before, sleeps, strict=False) if now > was]


def sleeps_so_far() -> int:
    """How often this thread gave up its core voluntarily; preemption does not count."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def longest_within(waits: list[Span], span: Span) -> int:
    """The longest wait that overlaps the span; without one, the minimum length of a gap."""
    lengths = [end - begin for begin, end in waits if begin < span[1] and end > span[0]]
    return max(lengths, default=MIN_GAP)


def longest(gaps: list[Span], count: int) -> list[int]:
    """The lengths of the longest gaps, at most `count` of them."""
    return sorted((end - begin for begin, end in gaps), reverse=True)[:count]


def undisturbed() -> list[int]:
    """A window without a wake-up: the longest of all gaps, one for each period."""
    gaps, _ = busy()
    periods = WINDOW // PERIOD
    lengths = longest(gaps, periods)
    return lengths + [MIN_GAP] * (periods - len(lengths))


@contextmanager
def waking(run: Callable[[], object]) -> Iterator[list[Span]]:
    """Runs a thread that wakes every period and calls `run`; yields the list of when each call began and ended."""
    spans: list[Span] = []
    done = False

    def wake() -> None:
        os.sched_setaffinity(0, first_core())
        due = perf_counter_ns()
        while not done:
            due += PERIOD
            time.sleep(max(0, due - perf_counter_ns()) / 1e9)
            began = perf_counter_ns()
            run()
            spans.append((began, perf_counter_ns()))

    thread = threading.Thread(target=wake)
    thread.start()
    try:
        yield spans
    finally:
        done = True
        thread.join()
        spans.pop()  # it ended after the window


def nothing() -> None:
    """The work of a no-op wake."""


def received(inbox: socket.socket) -> list[bytes]:
    """Drains the datagrams from the socket."""
    datagrams = []
    with suppress(BlockingIOError):
        while True:
            datagrams.append(inbox.recv(65536))
    return datagrams


def settle_threads() -> None:
    """Keeps the main thread on one core and all other threads, native ones too, on another.

    If permitted, they get real-time priority. Niceness would not be enough: a thread that wakes may still have to wait
    milliseconds for the end of another process's time slice.
    """
    for thread in map(int, os.listdir("/proc/self/task")):
        with suppress(ProcessLookupError):  # it has ended since
            os.sched_setaffinity(thread, last_core() if thread == os.getpid() else first_core())
            with suppress(PermissionError):
                os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(1))


CORES = sorted(os.sched_getaffinity(0))


def first_core() -> set[int]:
    """For the threads that wake."""
    return set(CORES[:1])


def last_core() -> set[int]:
    """For the main thread: kernels prefer the first core for their own work."""
    return set(CORES[-1:])
