"""The detailed level: each metric moves with its incident, and stays where a neighbouring cause is at work."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import json
import mmap
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
import types
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from catalogue_names import CATALOGUE, PREFIX, TIMELESS_NAMES, checks
from cgroups import limited, tracked
from receiving import flushing

from runtime_metrics import RuntimeMetrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import InstalledIn, RunProgram
    from receiving import Flush, Flushes

pytestmark = [
    pytest.mark.measures,
    pytest.mark.skipif(sys.platform != "linux", reason="the oracles are those of Linux"),
]

PROGRAM = Path(__file__).parent / "programs" / "observed.py"
MIB = 1 << 20
DETAILED = [metric.name.removeprefix(PREFIX) for metric in CATALOGUE if metric.level == "detailed"]


@pytest.fixture
def flush(flushes: Flushes) -> Callable[[], Flush]:
    """Flushes the detailed level now and returns what arrived. The next tick of the schedule is an hour away."""
    return flushing(flushes, level="detailed")


@pytest.fixture
def observe(flushes: Flushes) -> Callable[..., list[Flush]]:
    """Runs a program that does a kind of work, in control groups; returns its flushes after the one before the work."""

    def observe(work: str, *cgroups: Path, seconds: float = 1, **environment: str) -> list[Flush]:
        variables = {
            "DD_DOGSTATSD_URL": flushes.url,
            "OBSERVED_LEVEL": "detailed",
            "CGROUPS": " ".join(map(str, cgroups)),
            **environment,
        }
        command = [sys.executable, "-W", "error", str(PROGRAM), work, str(seconds)]
        subprocess.run(command, env=os.environ | variables, check=True, timeout=60)
        _, *after = flushes.rest()
        return after

    return observe


def burn(seconds: float) -> None:
    """Uses the CPU."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        sum(range(1000))


def test_the_detailed_level_includes_the_others(flush: Callable[[], Flush]) -> None:
    standard = {"fd.count", "mem.rss.anon", "process.uptime", "collector.cpu"}
    assert {*TIMELESS_NAMES, *standard} <= flush().values.keys()


def test_what_is_not_sent_has_a_reason(flush: Callable[[], Flush]) -> None:
    flush()
    arrived = {name.partition("{")[0] for name in flush().values}
    states = RuntimeMetrics.status()["selected"]
    assert {name for name in DETAILED if states[PREFIX + name] == "sent"} == arrived.intersection(DETAILED)
    missing = {name: states[PREFIX + name] for name in DETAILED if name not in arrived}
    # Where no tick has come and no limit is set.
    assert missing["collector.tick.late"] == "no flush of the schedule was due in the interval"
    assert [name for name, reason in missing.items() if not reason or reason == "sent"] == []


def test_a_single_row_is_added_to_the_default_level(run_program: RunProgram, flushes: Flushes) -> None:
    run_program(
        """
        from runtime_metrics import RuntimeMetrics

        RuntimeMetrics.enable(flush_interval=3600)
        assert RuntimeMetrics.flush()
        """,
        DD_DOGSTATSD_URL=flushes.url,
        DD_RUNTIME_METRICS_INCLUDE="modules.count",
    )
    first = flushes.rest()[0]
    assert first.values.keys() - {"modules.count", "cpu.percent"} == set(TIMELESS_NAMES)
    assert first["modules.count"] > 20


@pytest.fixture
def many_objects() -> Iterator[list[object]]:
    """So many containers that a full collection takes some milliseconds; nothing is collected by itself."""
    gc.collect()
    gc.disable()
    yield [[] for _ in range(300_000)]
    gc.enable()


@checks(
    *(f"runtime.python.gc.pause.time.gen{generation}" for generation in range(3)),
    *(f"runtime.python.gc.pause.max.gen{generation}" for generation in range(3)),
)
def test_a_pause_is_that_of_its_generation(flush: Callable[[], Flush], many_objects: list[object]) -> None:
    # The objects leave generation 0.
    gc.collect()
    flush()
    for number, generation in [(30, 0), (3, 1), (5, 2)]:
        lengths = []
        for _ in range(number):
            start = time.monotonic_ns()
            gc.collect(generation)
            lengths.append(time.monotonic_ns() - start)
        sent = flush()
        paused = [sent[f"gc.pause.time.gen{each}"] for each in range(3)]
        longest = [sent[f"gc.pause.max.gen{each}"] for each in range(3)]
        assert paused[generation] == sum(paused) == sent["gc.pause.time"]
        assert longest[generation] == sum(longest) == sent["gc.pause.max"]
        assert 0 < paused[generation] <= sum(lengths)
        assert longest[generation] <= max(lengths)
        if generation == 2:
            # What it does is all that takes time there.
            assert paused[generation] > 0.8 * sum(lengths)
    assert len(many_objects) == 300_000


@checks("runtime.python.gc.pause.p95")
def test_a_long_pause_among_many_is_not_what_most_take(
    flush: Callable[[], Flush], many_objects: list[object]
) -> None:
    gc.collect()
    flush()
    for _ in range(50):
        gc.collect(0)
    gc.collect(2)
    few = flush()
    assert few["gc.pause.p95"] < few["gc.pause.max"] / 5
    lengths = []
    for _ in range(20):
        start = time.monotonic_ns()
        gc.collect(2)
        lengths.append(time.monotonic_ns() - start)
    most = flush()
    assert most["gc.pause.p95"] <= most["gc.pause.max"]
    assert most["gc.pause.p95"] == pytest.approx(sorted(lengths)[18], rel=0.1)
    assert "gc.pause.p95" not in flush().values
    assert len(many_objects) == 300_000


@checks("runtime.python.gc.explicit")
@pytest.mark.parametrize("version", ["3.10", "3.11"])
def test_only_collections_that_are_asked_for_are_explicit(
    version: str, flushes: Flushes, installed_in: InstalledIn
) -> None:
    program = Path(__file__).parent / "programs" / "collecting.py"
    done = subprocess.run(
        [installed_in(version), "-W", "error", program],
        env=os.environ | {"DD_DOGSTATSD_URL": flushes.url},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    automatic = json.loads(done.stdout)
    _, allocating, asked, disabled, both, *_ = [flush["gc.explicit"] for flush in flushes.rest()]
    assert min(automatic["lists"], automatic["dropped"], automatic["in C"]) > 20
    assert (allocating, asked, disabled, both) == (0, 25, 5, 10)


def test_where_a_collection_begins_later_none_is_explicit(
    flushes: Flushes, installed_in: InstalledIn
) -> None:
    program = Path(__file__).parent / "programs" / "collecting.py"
    subprocess.run(
        [installed_in("3.12"), "-W", "error", program],
        env=os.environ | {"DD_DOGSTATSD_URL": flushes.url},
        stdout=subprocess.DEVNULL,
        check=True,
        timeout=60,
    )
    assert not any("gc.explicit" in flush.values for flush in flushes.rest())


@checks("runtime.python.gc.threshold.gen0")
def test_the_threshold_is_what_the_program_has_set(flush: Callable[[], Flush]) -> None:
    thresholds = gc.get_threshold()
    assert flush()["gc.threshold.gen0"] == thresholds[0]
    try:
        gc.set_threshold(50_000, *thresholds[1:])
        assert flush()["gc.threshold.gen0"] == 50_000
        # Disabling is another thing.
        gc.disable()
        assert flush()["gc.threshold.gen0"] == 50_000
    finally:
        gc.enable()
        gc.set_threshold(*thresholds)


@checks("runtime.python.gil.wait.avg")
def test_the_mean_wait_for_the_gil_rises_where_all_wait(observe: Callable[..., list[Flush]]) -> None:
    competing = observe("threads_compete", seconds=4)[0]
    assert 5e6 < competing["gil.wait.avg"] <= competing["gil.wait.max"]
    # One that computes hands it over after 5 ms; one that waits, at once.
    assert observe("idle")[0]["gil.wait.avg"] < 5e6


@checks("runtime.python.os.hiccup.p95")
def test_a_process_that_is_stopped_most_of_the_time_wakes_late_most_of_the_time(
    observe: Callable[..., list[Flush]],
) -> None:
    frozen = observe("frozen_again_and_again")[0]
    assert 0.05e9 < frozen["os.hiccup.p95"] <= frozen["os.hiccup.max"]
    # Who holds the GIL keeps no one from waking.
    assert observe("holds_gil", seconds=3)[0]["os.hiccup.p95"] < 0.05e9


def sizes() -> dict[str, int]:
    """The sizes of this process's memory in /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: int(fields[name].split()[0]) * 1024 for name in ("RssFile", "RssShmem", "VmSize")}


@checks("runtime.python.mem.rss.file", "runtime.python.mem.rss.shmem", "runtime.python.mem.virtual")
def test_memory_is_that_of_files_shared_or_not_there_at_all(flush: Callable[[], Flush]) -> None:
    names = ("mem.rss.file", "mem.rss.shmem", "mem.virtual", "mem.rss.anon")

    def growth(before: Flush, after: Flush) -> list[int]:
        return [round((after[name] - before[name]) / MIB) for name in names]

    def touch(memory: mmap.mmap) -> None:
        for at in range(0, len(memory), mmap.PAGESIZE):
            memory[at] = 1

    about = pytest.approx
    before = flush()
    with tempfile.NamedTemporaryFile(dir=Path(__file__).parent) as file:
        file.write(b"x" * (40 * MIB))
        file.flush()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            assert sum(mapped[:: mmap.PAGESIZE]) > 0
            of_file = flush()
            assert growth(before, of_file) == [about(40, abs=2), 0, about(40, abs=3), about(0, abs=3)]
            assert of_file["mem.rss.file"] == about(sizes()["RssFile"], abs=MIB)
    before = flush()
    with mmap.mmap(-1, 40 * MIB) as shared:
        touch(shared)
        of_shared = flush()
        assert growth(before, of_shared) == [about(0, abs=2), 40, about(40, abs=3), about(0, abs=3)]
        assert of_shared["mem.rss.shmem"] == about(sizes()["RssShmem"], abs=MIB)
    before = flush()
    with mmap.mmap(-1, 1024 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS):
        reserved = flush()
        assert growth(before, reserved) == [about(0, abs=2), 0, about(1024, abs=3), about(0, abs=3)]
        assert reserved["mem.virtual"] == about(psutil.Process().memory_info().vms, abs=MIB)


@checks("runtime.python.mem.growth_rate")
def test_growth_is_not_known_before_it_was_observed_for_a_while(
    flush: Callable[[], Flush], flushes: Flushes
) -> None:
    RuntimeMetrics.disable()
    flushes.next()
    RuntimeMetrics.enable(dogstatsd_url=flushes.url, flush_interval=120, level="detailed")
    kept = []
    for _ in range(5):
        kept.append(b"x" * (10 * MIB))
        assert [name for name in flush().values if name.startswith("mem.growth_rate")] == []
    # Growth of hours is simulated in tests/*.rs.
    states = RuntimeMetrics.status()["selected"]
    assert states["runtime.python.mem.growth_rate"] == "not observed for 15 minutes yet"


@checks("runtime.python.threads.state")
def test_threads_that_hash_run_and_threads_that_wait_sleep(flush: Callable[[], Flush]) -> None:
    def states(sent: Flush) -> dict[str, float]:
        return {state: sent[f"threads.state{{state:{state}}}"] for state in ("running", "sleeping", "disk")}

    before = states(flush())
    ended = threading.Event()
    waiting = [threading.Thread(target=ended.wait) for _ in range(5)]

    def hash_until_ended() -> None:
        while not ended.is_set():
            hashlib.pbkdf2_hmac("sha256", b"", b"", 200_000)

    hashing = [threading.Thread(target=hash_until_ended) for _ in range(3)]
    for thread in (*waiting, *hashing):
        thread.start()
    try:
        observed: list[dict[str, float]] = []
        deadline = time.monotonic() + 10
        # Where it is short of CPUs, those that wait run as well until they have begun to.
        while not any(it["running"] >= 2 and it["sleeping"] >= 5 for it in observed):
            assert time.monotonic() < deadline, observed
            observed.append(states(flush()))
    finally:
        ended.set()
        for thread in (*waiting, *hashing):
            thread.join()
    assert {sum(state.values()) for state in observed} == {sum(before.values()) + 8}
    # All but the one that flushes, and ours.
    names = [(task / "comm").read_text() for task in Path("/proc/self/task").iterdir()]
    assert sum(before.values()) == sum(not name.startswith("rtm-") for name in names) - 1
    assert sum(states(flush()).values()) == sum(before.values())


def test_a_thread_that_waits_for_storage_is_in_a_state_of_its_own(flush: Callable[[], Flush]) -> None:
    with tempfile.NamedTemporaryFile(dir=Path(__file__).parent) as file:
        file.write(os.urandom(50 * MIB))
        os.fsync(file.fileno())
        ended = threading.Event()

        def read_from_storage() -> None:
            with open(file.name, "rb", buffering=0) as opened:
                while not ended.is_set():
                    os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                    opened.seek(0)
                    while opened.read(MIB):
                        pass

        reading = [threading.Thread(target=read_from_storage) for _ in range(4)]
        for thread in reading:
            thread.start()
        try:
            deadline = time.monotonic() + 10
            while flush()["threads.state{state:disk}"] == 0:
                if time.monotonic() > deadline:
                    pytest.skip("the file system keeps its pages, or is too fast to be waited for")
        finally:
            ended.set()
            for thread in reading:
                thread.join()
    assert flush()["threads.state{state:disk}"] == 0


@checks("runtime.python.threads.python", "runtime.python.threads.native")
def test_threads_that_python_has_not_started_are_native(flush: Callable[[], Flush]) -> None:
    def counts() -> tuple[float, float]:
        sent = flush()
        assert sent["threads.python"] == threading.active_count()
        assert sent["threads.python"] + sent["threads.native"] == sent["thread_count"]
        return sent["threads.python"], sent["threads.native"]

    python, native = counts()
    ended = threading.Event()
    started = [threading.Thread(target=ended.wait) for _ in range(4)]
    for thread in started:
        thread.start()
    assert counts() == (python + 4, native)
    # Threads that the C library starts for itself, to sleep for a while in a timer.
    libc = ctypes.CDLL(None)
    thread_id = ctypes.c_ulong()
    for _ in range(3):
        assert libc.pthread_create(ctypes.byref(thread_id), None, libc.sleep, ctypes.c_void_p(1)) == 0
    assert counts() == (python + 4, native + 3)
    ended.set()
    for thread in started:
        thread.join()
    deadline = time.monotonic() + 10
    while counts() != (python, native):
        assert time.monotonic() < deadline


LOOP = """
import asyncio, time
from runtime_metrics import RuntimeMetrics

async def work():
    %s

async def main():
    RuntimeMetrics.enable(flush_interval=3600, level="detailed")
    assert RuntimeMetrics.flush()
    await work()
    assert RuntimeMetrics.flush()
    RuntimeMetrics.disable()

asyncio.run(main())
"""


@checks(
    "runtime.python.event_loop.iterations",
    "runtime.python.event_loop.slow_callbacks",
    "runtime.python.event_loop.ready",
    "runtime.python.event_loop.timers",
)
@pytest.mark.parametrize(
    ("work", "iterations", "slow", "ready", "timers"),
    [
        ("for _ in range(2000): await asyncio.sleep(0)", 2000, 0, 0, 0),
        ("for _ in range(3): time.sleep(0.12); await asyncio.sleep(0)", 3, 3, 0, 0),
        ("for _ in range(3): time.sleep(0.06); await asyncio.sleep(0)", 3, 0, 0, 0),
        ("for _ in range(50): asyncio.get_running_loop().call_soon(int)", 0, 0, 50, 0),
        ("for _ in range(60): asyncio.get_running_loop().call_later(900, int)", 0, 0, 0, 60),
        ("await asyncio.sleep(0.5)", 1, 0, 0, 0),
    ],
    ids=["spins", "blocks", "is nearly slow", "has a backlog", "leaks timers", "waits"],
)
def test_what_an_event_loop_does_is_counted(
    run_program: RunProgram,
    flushes: Flushes,
    work: str,
    iterations: int,
    slow: int,
    ready: int,
    timers: int,
) -> None:
    run_program(LOOP % work, DD_DOGSTATSD_URL=flushes.url)
    _, sent, *_ = flushes.rest()
    # The one that runs the first flush ends after it.
    assert iterations <= sent["event_loop.iterations"] <= iterations + 3
    assert sent["event_loop.slow_callbacks"] == slow
    assert (sent["event_loop.ready"], sent["event_loop.timers"]) == (ready, timers)


@checks("runtime.python.io.read", "runtime.python.io.write")
def test_what_is_read_and_written_is_what_goes_to_storage(flush: Callable[[], Flush]) -> None:
    before = psutil.Process().io_counters()
    flush()
    with tempfile.NamedTemporaryFile(dir=Path(__file__).parent) as file:
        file.write(os.urandom(20 * MIB))
        file.flush()
        os.fsync(file.fileno())
        written = flush()
        if psutil.Process().io_counters().write_bytes - before.write_bytes < 20 * MIB:
            pytest.skip("the file system is not on storage")
        assert written["io.write"] == pytest.approx(20 * MIB, rel=0.05)
        # It is in memory.
        Path(file.name).read_bytes()
        cached = flush()
        # Metadata may be written at any time.
        assert cached["io.read"] + cached["io.write"] < MIB
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        Path(file.name).read_bytes()
        assert flush()["io.read"] == pytest.approx(20 * MIB, rel=0.05)
    after = psutil.Process().io_counters()
    assert after.write_bytes - before.write_bytes == pytest.approx(20 * MIB, rel=0.05)
    # What a pipe transfers is not storage.
    reading, writing = os.pipe()
    for _ in range(1000):
        os.write(writing, b"x" * 4096)
        assert os.read(reading, 4096)
    os.close(reading)
    os.close(writing)
    piped = flush()
    assert piped["io.read"] + piped["io.write"] < MIB


@checks("runtime.python.mem.limit", "runtime.python.mem.working_set")
def test_the_working_set_grows_towards_the_limit_with_memory_that_cannot_be_dropped(
    observe: Callable[..., list[Flush]], tmp_path: Path
) -> None:
    large = tmp_path / "large"
    large.write_bytes(b"x" * (16 * MIB))
    with limited("memory", 64 * MIB) as group:
        idle = observe("idle", group)[0]
        assert idle["mem.limit"] == 64 * MIB
        assert idle["mem.headroom.percent"] == pytest.approx(
            100 * (1 - idle["mem.working_set"] / idle["mem.limit"])
        )
        leaking = observe("leaks_native_memory", group)[0]
        assert leaking["mem.working_set"] - idle["mem.working_set"] == pytest.approx(20 * MIB, rel=0.3)
        reading = observe("reading", group, LARGE_FILE=str(large))[0]
        assert reading["mem.working_set"] - idle["mem.working_set"] < 8 * MIB


@checks("runtime.python.cpu.throttled.time")
def test_it_is_throttled_for_the_time_in_which_its_quota_is_used_up(
    observe: Callable[..., list[Flush]],
) -> None:
    def counted() -> int:
        stat = dict(line.split() for line in (group.parent / "cpu.stat").read_text().splitlines())
        return int(stat.get("throttled_time", 0)) or 1000 * int(stat.get("throttled_usec", 0))

    with limited("cpu", 0.2) as group:
        throttled = observe("one_thread_computes", group)[0]["cpu.throttled.time"]
        # The start of the program was throttled as well.
        assert 0.1e9 < throttled <= counted()
        assert observe("waiting", group)[0]["cpu.throttled.time"] < throttled / 2


@checks("runtime.python.pids.percent")
def test_threads_use_up_the_limit_of_a_container(observe: Callable[..., list[Flush]]) -> None:
    with limited("pids", 40) as group:

        def threads(work: str) -> float:
            # The kernel counts threads that have ended until it has freed them.
            deadline = time.monotonic() + 10
            while (group.parent / "pids.current").read_text() != "0\n":
                assert time.monotonic() < deadline
            return observe(work, group)[0]["pids.percent"] * 40 / 100

        # Its main thread, and two of ours.
        assert threads("idle") == pytest.approx(3)
        assert threads("keeps_threads") == pytest.approx(13)
        assert threads("waiting") == pytest.approx(3)


@checks("runtime.python.pressure.cpu")
def test_processes_that_compete_for_a_cpu_are_under_pressure(observe: Callable[..., list[Flush]]) -> None:
    with tracked() as groups:
        competing = observe("too_few_cpus", *groups, seconds=6)[0]
        assert 20 < competing["pressure.cpu"] <= 100
    with tracked() as groups:
        assert observe("idle", *groups, seconds=6)[0]["pressure.cpu"] < 10


@checks("runtime.python.pressure.memory", "runtime.python.pressure.io")
def test_a_file_that_never_fits_into_memory_is_pressure(
    observe: Callable[..., list[Flush]],
) -> None:
    with tracked() as groups, limited("memory", 64 * MIB) as limit:
        with tempfile.NamedTemporaryFile(dir=Path(__file__).parent) as file:
            file.write(os.urandom(100 * MIB))
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            reading = observe("reading_again_and_again", *groups, limit, LARGE_FILE=file.name)[0]
        assert reading["pressure.io"] > 1
        assert reading["pressure.memory"] > 0
    with tracked() as groups:
        calm = observe("one_thread_computes", *groups, seconds=4)[0]
        assert (calm["pressure.io"], calm["pressure.memory"]) == (0, 0)


@checks("runtime.python.modules.count")
def test_modules_count_once(flush: Callable[[], Flush]) -> None:
    before = flush()["modules.count"]
    assert before == len(sys.modules)
    made = [f"made_{number}" for number in range(50)]
    try:
        for name in made:
            sys.modules[name] = types.ModuleType(name)
        assert flush()["modules.count"] == before + 50
        # What is imported again is not a new one, nor is one that nobody can import.
        __import__("json")
        types.ModuleType("unknown")
        assert flush()["modules.count"] == before + 50
    finally:
        for name in made:
            del sys.modules[name]
    assert flush()["modules.count"] == before


@checks("runtime.python.children.count")
def test_children_count_until_they_were_waited_for(flush: Callable[[], Flush]) -> None:
    before = flush()["children.count"]
    assert before == len(psutil.Process().children())
    with ExitStack() as stack:
        # Each has a child of its own.
        command = ["/bin/sh", "-c", "sleep 60 & echo; wait"]
        children = [
            stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True))
            for _ in range(3)
        ]
        for child in children:
            assert child.stdout is not None
            child.stdout.readline()
        assert flush()["children.count"] == before + 3 == len(psutil.Process().children())
        for child in children:
            os.killpg(child.pid, 9)
        # They have ended, and nobody knows yet.
        assert flush()["children.count"] == before + 3
        for child in children:
            child.wait()
        assert flush()["children.count"] == before


@checks("runtime.python.children.cpu")
def test_the_cpu_time_of_children_is_counted_when_they_have_ended(flush: Callable[[], Flush]) -> None:
    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    flush()
    before = used()
    code = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as child:  # type: ignore[call-overload]
        child.stdout.readline()
        burn(0.1)
        # What the process itself uses, and a child that runs, is not counted.
        assert flush()["children.cpu"] == 0
        child.communicate(b"\n")
    sent = flush()["children.cpu"]
    assert sent == pytest.approx(used() - before, abs=1e-5)
    assert 0.3 <= sent < 1


@checks("runtime.python.faults.minor")
def test_memory_that_is_used_for_the_first_time_faults(flush: Callable[[], Flush]) -> None:
    def faults() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    pages = 20 * MIB // mmap.PAGESIZE
    with mmap.mmap(-1, 20 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        flush()
        before = faults()
        for page in range(pages):
            memory[page * mmap.PAGESIZE] = 1
        inner = faults() - before
        first = flush()["faults.minor"]
        assert pages <= inner <= first <= inner + 500
        for page in range(pages):
            memory[page * mmap.PAGESIZE] = 2
        assert flush()["faults.minor"] < 500


@checks("runtime.python.collector.tick.late")
def test_a_flush_of_a_process_that_was_stopped_is_late(observe: Callable[..., list[Flush]]) -> None:
    def latest(work: str) -> float:
        late = [
            it["collector.tick.late"]
            for it in observe(work, seconds=3, INTERVAL="1")
            if "collector.tick.late" in it.values
        ]
        assert late
        return max(late)

    assert 1e9 < latest("is_frozen") < 4e9
    # A flush does not wait for the GIL to begin.
    assert latest("holds_gil") < 0.5e9


@checks("runtime.python.collector.errors")
def test_a_flush_without_the_interpreter_is_an_error(observe: Callable[..., list[Flush]]) -> None:
    def errors(work: str) -> float:
        return sum(flush["collector.errors"] for flush in observe(work, seconds=4, INTERVAL="1"))

    assert 2 <= errors("holds_gil") <= 5
    assert errors("one_thread_computes") == 0


SLOW_READ = """
import os, sys, time
from runtime_metrics import RuntimeMetrics

count, held = sys.getallocatedblocks, 0.0

def slow():
    global held
    start = time.perf_counter()
    while time.perf_counter() < start + 0.02:
        pass
    held += time.perf_counter() - start
    return count()

sys.getallocatedblocks = slow if os.environ["READ"] == "slow" else count
"""


@checks("runtime.python.collector.gil_held")
def test_our_thread_holds_the_gil_as_long_as_what_it_calls_there_takes(
    run_program: RunProgram, flushes: Flushes
) -> None:
    def held(word: str) -> tuple[float, float]:
        measured = run_program(
            SLOW_READ
            + """
RuntimeMetrics.enable(flush_interval=0.2, level="detailed")
end = time.monotonic() + 2
while time.monotonic() < end:
    sum(range(1000))
RuntimeMetrics.disable()
print(held)
""",
            DD_DOGSTATSD_URL=flushes.url,
            READ=word,
        )
        return sum(flush["collector.gil_held"] for flush in flushes.rest()), float(measured) * 1e9

    slow, measured = held("slow")
    # Twice, as it is given up then; the program's own last call is no thread of ours.
    assert measured >= 0.02e9
    assert slow >= 0.02e9
    assert slow <= measured + 0.1e9
    # Waiting for it is not holding it.
    quick, _ = held("quick")
    assert 0 < quick < 0.015e9


@checks("runtime.python.collector.skipped")
def test_a_read_that_is_not_due_is_skipped(run_program: RunProgram, flushes: Flushes) -> None:
    def skipped(word: str) -> list[float]:
        run_program(
            SLOW_READ
            + """
RuntimeMetrics.enable(flush_interval=3600, level="detailed")
for _ in range(3):
    assert RuntimeMetrics.flush()
RuntimeMetrics.disable()
""",
            DD_DOGSTATSD_URL=flushes.url,
            READ=word,
        )
        return [flush["collector.skipped"] for flush in flushes.rest()]

    assert skipped("slow") == [0, 1, 1, 1]
    assert skipped("quick") == [0, 0, 0, 0]
