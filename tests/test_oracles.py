"""Each metric compared with an independent source of the same fact."""

from __future__ import annotations

import gc
import hashlib
import os
import resource
import threading
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from catalogue_names import CALLBACK_NAMES, NAMES, TIMELESS_NAMES, assert_complete, checks

from runtime_metrics import RuntimeMetrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from receiving import Flush, Flushes


pytestmark = pytest.mark.measures


@pytest.fixture
def flush(flushes: Flushes) -> Callable[[], Flush]:
    """Flushes now and returns what arrived. The next tick of the schedule is an hour away."""
    RuntimeMetrics.enable(dogstatsd_url=flushes.url, flush_interval=3600)

    def flush() -> Flush:
        assert RuntimeMetrics.flush()
        return flushes.next()

    return flush


@pytest.fixture
def hashing() -> Iterator[None]:
    """Keeps every CPU busy, with threads that do not hold the interpreter."""
    ended = threading.Event()

    def hash_until_ended() -> None:
        while not ended.is_set():
            hashlib.pbkdf2_hmac("sha256", b"", b"", 5000)

    threads = [threading.Thread(target=hash_until_ended) for _ in range(2 * (os.cpu_count() or 1))]
    for thread in threads:
        thread.start()
    yield
    ended.set()
    for thread in threads:
        thread.join()


def cpu_seconds() -> tuple[float, float]:
    """User and kernel time of the process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime, usage.ru_stime


def burn(seconds: float) -> None:
    """Uses the CPU, in user mode and in the kernel."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        os.stat("/")
        sum(range(1000))


def collections() -> list[int]:
    """How many collections there have been, by generation."""
    return [generation["collections"] for generation in gc.get_stats()]


def test_a_flush_holds_the_names_of_the_default_level(flush: Callable[[], Flush]) -> None:
    assert_complete(flush().values)


@checks("runtime.python.cpu.time.sys", "runtime.python.cpu.time.user")
def test_cpu_time_is_the_process_and_agrees_with_getrusage(flush: Callable[[], Flush]) -> None:
    flush()
    before = cpu_seconds()
    worker = threading.Thread(target=burn, args=(0.3,))
    worker.start()
    worker.join()
    burn(0.2)
    RuntimeMetrics.snapshot()
    expected_user, expected_system = (now - then for now, then in zip(cpu_seconds(), before, strict=True))
    sent = flush()
    assert sent["cpu.time.user"] + sent["cpu.time.sys"] == pytest.approx(
        expected_user + expected_system, abs=0.002
    )
    assert sent["cpu.time.user"] == pytest.approx(expected_user, abs=0.01)
    assert sent["cpu.time.sys"] == pytest.approx(expected_system, abs=0.01)
    assert sent["cpu.time.user"] > 0.1


@checks("runtime.python.cpu.percent")
def test_cpu_percent_is_cpu_time_over_wall_time(flush: Callable[[], Flush]) -> None:
    flush()
    start = time.monotonic()
    burn(0.3)
    time.sleep(0.3)
    sent = flush()
    wall = time.monotonic() - start
    expected = 100 * (sent["cpu.time.user"] + sent["cpu.time.sys"]) / wall
    assert sent["cpu.percent"] == pytest.approx(expected, rel=0.05)
    assert 10 < sent["cpu.percent"] < 90


@pytest.mark.usefixtures("hashing")
def test_the_cpu_percentage_alone_is_missing_over_an_interval_too_short_for_it(flushes: Flushes) -> None:
    RuntimeMetrics.enable(dogstatsd_url=flushes.url, flush_interval=3600)
    short, snapshots = [], []
    for _ in range(15):
        start = time.monotonic()
        assert RuntimeMetrics.flush()
        assert RuntimeMetrics.flush()
        found = RuntimeMetrics.snapshot()
        # On a busy machine some take longer.
        short.append(time.monotonic() - start < 0.05)
        snapshots.append(found)
    seconds = flushes.rest()[1::2]
    assert any(short)
    for is_short, sent, found in zip(short, seconds, snapshots, strict=True):
        if is_short:
            assert set(NAMES) - sent.values.keys() == {"cpu.percent"}
            assert "runtime.python.cpu.percent" not in found
            assert "runtime.python.cpu.time.user" in found
    # Each CPU may have been credited with a tick of the kernel's too many, of 10 ms at most.
    most = max(found.get("runtime.python.cpu.percent", 0) for found in snapshots)
    assert most <= 1.2 * 100 * (os.cpu_count() or 1)


def test_an_idle_interval_still_sends_kernel_time(flush: Callable[[], Flush]) -> None:
    flush()
    assert flush()["cpu.time.sys"] < 0.01


@checks("runtime.python.mem.rss")
def test_rss_agrees_with_psutil_while_memory_grows(flush: Callable[[], Flush]) -> None:
    before = flush()["mem.rss"]
    memory = b"x" * (200 << 20)
    sent = flush()["mem.rss"]
    assert sent == pytest.approx(psutil.Process().memory_info().rss, rel=0.02)
    assert sent - before == pytest.approx(len(memory), rel=0.05)


@checks("runtime.python.thread_count")
def test_thread_count_is_exact(flush: Callable[[], Flush]) -> None:
    before = flush()["thread_count"]
    over = threading.Event()
    threads = [threading.Thread(target=over.wait) for _ in range(20)]
    for thread in threads:
        thread.start()
    during = flush()["thread_count"]
    expected = psutil.Process().num_threads()
    over.set()
    for thread in threads:
        thread.join()
    assert during == expected == before + 20


@checks("runtime.python.cpu.ctx_switch.voluntary", "runtime.python.cpu.ctx_switch.involuntary")
def test_context_switches_are_the_whole_process(flush: Callable[[], Flush]) -> None:
    flush()
    before = resource.getrusage(resource.RUSAGE_SELF)

    def sleep_often() -> None:
        for _ in range(1000):
            time.sleep(0.0001)

    worker = threading.Thread(target=sleep_often)
    worker.start()
    worker.join()
    after = resource.getrusage(resource.RUSAGE_SELF)
    sent = flush()
    assert sent["cpu.ctx_switch.voluntary"] >= 1000
    assert sent["cpu.ctx_switch.voluntary"] == pytest.approx(after.ru_nvcsw - before.ru_nvcsw, abs=20)
    assert sent["cpu.ctx_switch.involuntary"] == pytest.approx(after.ru_nivcsw - before.ru_nivcsw, abs=20)


@checks(*(f"runtime.python.gc.count.gen{generation}" for generation in range(3)))
def test_gc_counts_are_those_of_get_count(flush: Callable[[], Flush]) -> None:
    gc.collect()
    gc.disable()
    try:
        kept: list[list[object]] = [[] for _ in range(5000)]
        expected = gc.get_count()
        sent = flush()
    finally:
        gc.enable()
    assert len(kept) == 5000
    assert sent["gc.count.gen0"] == pytest.approx(expected[0], abs=200)
    assert sent["gc.count.gen0"] > 4000
    assert (sent["gc.count.gen1"], sent["gc.count.gen2"]) == expected[1:]


def test_a_count_that_is_negative_is_left_out_alone(
    flushes: Flushes, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On free-threaded builds the first may be: there gc.get_count() adds what threads have counted apart.
    monkeypatch.setattr(gc, "get_count", lambda: (-7, 2, 0))
    RuntimeMetrics.enable(dogstatsd_url=flushes.url, flush_interval=3600)
    assert RuntimeMetrics.flush()
    sent = flushes.next()
    assert set(TIMELESS_NAMES) - sent.values.keys() == {"gc.count.gen0"}
    assert (sent["gc.count.gen1"], sent["gc.count.gen2"]) == (2, 0)


def make_garbage() -> None:
    """Provokes collections of every generation."""
    for _ in range(50_000):
        knot: list[Any] = []
        knot.append(knot)
    for generation in (0, 0, 0, 1, 1, 2):
        gc.collect(generation)


@checks(*(f"runtime.python.gc.collections.gen{generation}" for generation in range(3)))
def test_collections_are_those_of_get_stats(flush: Callable[[], Flush]) -> None:
    flush()
    before = collections()
    worker = threading.Thread(target=make_garbage)
    worker.start()
    make_garbage()
    worker.join()
    gc.disable()
    try:
        expected = [now - then for now, then in zip(collections(), before, strict=True)]
        sent = flush()
    finally:
        gc.enable()
    assert [sent[f"gc.collections.gen{generation}"] for generation in range(3)] == expected
    assert min(expected) >= 2


class Stopwatch:
    """A Python callback beside ours, which times each collection."""

    def __init__(self) -> None:
        self.pauses: list[int] = []
        self._start = 0

    def __call__(self, phase: str, _info: dict[str, int]) -> None:
        if phase == "start":
            self._start = time.perf_counter_ns()
        else:
            self.pauses.append(time.perf_counter_ns() - self._start)


@pytest.fixture
def stopwatch() -> Iterator[Stopwatch]:
    """Times every collection of the test."""
    stopwatch = Stopwatch()
    gc.callbacks.append(stopwatch)
    yield stopwatch
    gc.callbacks.remove(stopwatch)


@checks("runtime.python.gc.pause.time", "runtime.python.gc.pause.max")
def test_pauses_agree_with_a_python_callback(flush: Callable[[], Flush], stopwatch: Stopwatch) -> None:
    kept: list[list[list[object]]] = [[[]] for _ in range(500_000)]
    gc.disable()
    try:
        flush()
        stopwatch.pauses.clear()
        for _ in range(3):
            gc.collect()
        sent = flush()
    finally:
        gc.enable()
    assert len(kept) == 500_000
    assert min(stopwatch.pauses) > 5e6, "the collections are long enough to be compared"
    assert len(stopwatch.pauses) == 3
    assert sent["gc.pause.time"] == pytest.approx(sum(stopwatch.pauses), rel=0.2)
    assert sent["gc.pause.max"] == pytest.approx(max(stopwatch.pauses), rel=0.2)


def test_the_longest_pause_is_reset_at_each_flush(flush: Callable[[], Flush]) -> None:
    gc.disable()
    try:
        gc.collect()
        first = flush()
        second = flush()
    finally:
        gc.enable()
    assert first["gc.pause.max"] > 0
    assert (second["gc.pause.max"], second["gc.pause.time"], second["gc.collections.gen2"]) == (0, 0, 0)


def test_a_callback_that_was_cleared_comes_back(flush: Callable[[], Flush]) -> None:
    before = list(gc.callbacks)
    flush()
    gc.callbacks.clear()
    gc.collect()
    sent = flush()
    assert set(NAMES) - sent.values.keys() == set(CALLBACK_NAMES)
    assert gc.callbacks == before[-1:]
    gc.collect()
    assert flush()["gc.collections.gen2"] >= 1
    gc.callbacks[:0] = before[:-1]


def test_the_first_interval_holds_nothing_of_the_past(flushes: Flushes) -> None:
    burn(0.3)
    for _ in range(200):
        time.sleep(0.0001)
        gc.collect(0)
    start = cpu_seconds()
    RuntimeMetrics.enable(dogstatsd_url=flushes.url, flush_interval=3600)
    assert RuntimeMetrics.flush()
    sent = flushes.next()
    used = sum(cpu_seconds()) - sum(start)
    assert sent["cpu.time.user"] + sent["cpu.time.sys"] <= used
    assert sent["cpu.ctx_switch.voluntary"] < 50
    assert sent["gc.collections.gen0"] <= 2
    assert sent["gc.pause.time"] < 1e8


def test_a_snapshot_reads_what_a_flush_sends_and_changes_nothing(flush: Callable[[], Flush]) -> None:
    flush()
    gc.collect()
    first = RuntimeMetrics.snapshot()
    second = RuntimeMetrics.snapshot()
    sent = flush()
    name = "runtime.python.gc.collections.gen2"
    assert first[name] == second[name] == sent["gc.collections.gen2"] >= 1
    assert first["runtime.python.gc.pause.max"] == sent["gc.pause.max"]
    assert second["runtime.python.cpu.time.user"] >= first["runtime.python.cpu.time.user"]
    assert isinstance(first["runtime.python.mem.rss"], int)
    assert isinstance(first["runtime.python.cpu.percent"], float)
