"""The standard level: each metric moves with its incident, and stays where a neighbouring cause is at work."""

from __future__ import annotations

import gc
import mmap
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from catalogue_names import CATALOGUE, PREFIX, TIMELESS_NAMES, checks
from cgroups import limited
from receiving import flushing

from runtime_metrics import RuntimeMetrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import RunProgram
    from receiving import Flush, Flushes

pytestmark = [
    pytest.mark.measures,
    pytest.mark.skipif(sys.platform != "linux", reason="the oracles are those of Linux"),
]

PROGRAM = Path(__file__).parent / "programs" / "observed.py"
MIB = 1 << 20
STANDARD = [metric for metric in CATALOGUE if metric.level == "standard" and not metric.by_name]
ALARMS = [metric.name.removeprefix(PREFIX) for metric in STANDARD if metric.kind == "alarm"]


@pytest.fixture
def flush(flushes: Flushes) -> Callable[[], Flush]:
    """Flushes the standard level now and returns what arrived. The next tick of the schedule is an hour away."""
    return flushing(flushes, level="standard")


@pytest.fixture
def around(flushes: Flushes) -> Callable[..., tuple[Flush, Flush]]:
    """Runs a program that does a kind of work, in control groups, on a CPU; returns the flushes before and after it."""

    def around(
        work: str, *cgroups: Path, seconds: float = 1, cpu: int | None = None, **environment: str
    ) -> tuple[Flush, Flush]:
        variables = {"DD_DOGSTATSD_URL": flushes.url, "CGROUPS": " ".join(map(str, cgroups)), **environment}
        pin = [] if cpu is None else ["taskset", "-c", str(cpu)]
        command = [*pin, sys.executable, "-W", "error", str(PROGRAM), work, str(seconds)]
        subprocess.run(command, env=os.environ | variables, check=True, timeout=60)
        before, after, *_ = flushes.rest()
        return before, after

    return around


@pytest.fixture
def observe(around: Callable[..., tuple[Flush, Flush]]) -> Callable[..., Flush]:
    """Runs a program in the same way; returns the flush after its work."""
    return lambda *arguments, **options: around(*arguments, **options)[1]


@contextmanager
def file_of(size: int) -> Iterator[Path]:
    """A file on a disk, whose content is written."""
    with tempfile.NamedTemporaryFile(dir=Path(__file__).parent) as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
        file.flush()
        os.fsync(file.fileno())
        yield Path(file.name)


def test_the_standard_level_includes_the_default_level(flush: Callable[[], Flush]) -> None:
    assert set(TIMELESS_NAMES) <= flush().values.keys()


@checks("runtime.python.gil.wait.max", "runtime.python.gil.wait.p95")
def test_a_wait_for_the_gil_is_as_long_as_it_is_held(observe: Callable[..., Flush]) -> None:
    held = observe("holds_gil", seconds=3)
    assert 1e9 < held["gil.wait.max"] < 4e9
    assert held["cpu.run_delay"] < 0.2e9
    # A thread that computes hands it over after 5 ms.
    assert 1e6 < observe("one_thread_computes")["gil.wait.max"] < 0.2e9
    idle = observe("idle")
    assert idle["gil.wait.p95"] <= idle["gil.wait.max"] < 20e6


@checks("runtime.python.os.hiccup.max")
def test_a_process_that_is_frozen_wakes_late(observe: Callable[..., Flush]) -> None:
    assert 1e9 < observe("is_frozen", seconds=3)["os.hiccup.max"] < 5e9
    # Who holds the GIL keeps no one from waking.
    assert observe("holds_gil", seconds=3)["os.hiccup.max"] < 0.1e9


@checks("runtime.python.cpu.run_delay")
def test_run_delay_grows_where_others_compute_on_the_same_cpu(observe: Callable[..., Flush]) -> None:
    cpu = max(os.sched_getaffinity(0))
    starved = observe("too_few_cpus")
    # Of three that compute, each has a third of the CPU.
    assert 0.5e9 < starved["cpu.run_delay"] < 0.85e9
    assert observe("waiting", cpu=cpu)["cpu.run_delay"] < 0.1e9


def test_run_delay_is_what_the_kernel_counts(flush: Callable[[], Flush]) -> None:
    def delay() -> int:
        return sum(int(task.read_text().split()[1]) for task in Path("/proc/self/task").glob("*/schedstat"))

    outer = delay()
    flush()
    inner = delay()
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        sum(range(1000))
    least = delay() - inner
    sent = flush()["cpu.run_delay"]
    assert least <= sent <= delay() - outer


@checks("runtime.python.cpu.thread.max_percent")
def test_the_busiest_thread_computes_all_the_time(observe: Callable[..., Flush]) -> None:
    busy = observe("one_thread_computes")
    assert 60 < busy["cpu.thread.max_percent"] < 102
    assert busy["cpu.thread.max_percent"] == pytest.approx(busy["cpu.percent"], abs=5)
    assert observe("idle")["cpu.thread.max_percent"] < 10
    # Four threads that do a little each are no busy thread.
    assert observe("waiting")["cpu.thread.max_percent"] < 20


@checks("runtime.python.cpu.limit")
def test_the_cpu_limit_is_the_smaller_of_quota_and_affinity(
    flush: Callable[[], Flush], observe: Callable[..., Flush]
) -> None:
    cpus = len(os.sched_getaffinity(0))
    assert flush()["cpu.limit"] <= cpus
    assert observe("waiting", cpu=max(os.sched_getaffinity(0)))["cpu.limit"] <= 1
    with limited("cpu", 0.3) as group:
        assert observe("waiting", group)["cpu.limit"] == pytest.approx(0.3)


@checks("runtime.python.cpu.throttled.percent")
def test_periods_are_throttled_where_the_quota_is_used_up(observe: Callable[..., Flush]) -> None:
    with limited("cpu", 0.3) as group:
        assert observe("one_thread_computes", group)["cpu.throttled.percent"] > 50
        assert observe("waiting", group)["cpu.throttled.percent"] < 20
        stat = dict(line.split() for line in (group.parent / "cpu.stat").read_text().splitlines())
        assert int(stat["nr_throttled"]) > 0


@checks("runtime.python.mem.rss.anon")
def test_anonymous_memory_is_what_is_allocated_and_not_what_is_mapped_from_a_file(
    flush: Callable[[], Flush],
) -> None:
    before = flush()
    memory = b"x" * (50 * MIB)
    allocated = flush()
    assert allocated["mem.rss.anon"] - before["mem.rss.anon"] == pytest.approx(len(memory), rel=0.05)
    expected = int(status_line("RssAnon").split()[0]) * 1024
    assert allocated["mem.rss.anon"] == pytest.approx(expected, rel=0.02)
    with (
        file_of(50 * MIB) as path,
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
    ):
        assert sum(mapped[:: mmap.PAGESIZE]) > 0
        after = flush()
    assert after["mem.rss"] - allocated["mem.rss"] == pytest.approx(50 * MIB, rel=0.05)
    assert abs(after["mem.rss.anon"] - allocated["mem.rss.anon"]) < 5 * MIB


def status_line(name: str) -> str:
    """What /proc/self/status has under this name."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return dict(line.split(":", 1) for line in lines)[name].strip()


@checks("runtime.python.mem.rss.peak")
def test_the_peak_stays_when_memory_is_freed(flush: Callable[[], Flush]) -> None:
    before = flush()
    memory = b"x" * (100 * MIB)
    during = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    del memory
    after = flush()
    assert after["mem.rss"] < before["mem.rss"] + 20 * MIB
    assert after["mem.rss.peak"] == pytest.approx(during, rel=0.02)


@checks("runtime.python.mem.headroom.percent", "runtime.python.mem.limit_hits")
def test_headroom_is_what_the_kernel_could_not_free_and_hits_are_counted(
    observe: Callable[..., Flush],
) -> None:
    with limited("memory", 64 * MIB) as group:
        calm = observe("waiting", group)
        assert 20 < calm["mem.headroom.percent"] < 100
        assert "mem.limit_hits" not in calm.values
        # The pages of a file that was read once are dropped first: the limit is reached, and the headroom stays.
        with file_of(100 * MIB) as path:
            os.posix_fadvise(fd := os.open(path, os.O_RDONLY), 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)
            full = observe("reading", group, LARGE_FILE=str(path))
    assert full["mem.headroom.percent"] == pytest.approx(calm["mem.headroom.percent"], abs=20)
    assert full["mem.limit_hits"] > 0


@checks("runtime.python.mem.time_to_limit")
def test_a_limit_that_is_not_approached_is_six_hours_away_at_the_first_flush_alone(
    around: Callable[..., tuple[Flush, Flush]],
) -> None:
    def sent(flush: Flush) -> dict[str, float]:
        return {name: value for name, value in flush.values.items() if name.startswith("mem.time_to_limit")}

    causes = ("python", "fragmentation", "mmap", "native", "other")
    with limited("memory", 64 * MIB) as group:
        before, after = around("waiting", group, INTERVAL="60")
        assert sent(before) == {f"mem.time_to_limit{{cause:{cause}}}": 6 * 3600 for cause in causes}
        assert sent(after) == {}
        # An hour between two flushes is too long to see a trend. Growth of hours is simulated in tests/*.rs.
        assert sent(around("waiting", group)[0]) == {}


@checks("runtime.python.mem.oom_kills")
def test_a_child_that_is_killed_for_lack_of_memory_is_counted(observe: Callable[..., Flush]) -> None:
    with limited("memory", 64 * MIB) as group:
        assert observe("killing", group)["mem.oom_kills"] == 1
        assert "mem.oom_kills" not in observe("waiting", group).values


@checks("runtime.python.mem.python.blocks")
def test_blocks_grow_with_the_objects_of_python_alone(around: Callable[..., tuple[Flush, Flush]]) -> None:
    def growth(work: str) -> dict[str, float]:
        before, after = around(work)
        names = ("mem.python.blocks", "mem.rss.anon", "mem.rss")
        return {name: after[name] - before[name] for name in names}

    kept = growth("leaks_objects")
    assert kept["mem.python.blocks"] == pytest.approx(300_000, rel=0.02)
    assert kept["mem.rss.anon"] > 15 * MIB
    allocated = growth("leaks_native_memory")
    assert abs(allocated["mem.python.blocks"]) < 20_000
    assert allocated["mem.rss.anon"] == pytest.approx(20 * MIB, rel=0.1)
    mapped = growth("maps_a_file")
    assert abs(mapped["mem.python.blocks"]) < 20_000
    assert mapped["mem.rss.anon"] < 5 * MIB
    assert mapped["mem.rss"] > 45 * MIB


def test_blocks_are_those_that_the_interpreter_counts_and_not_counted_again_soon_if_that_takes_long(
    run_program: RunProgram, flushes: Flushes
) -> None:
    counted = run_program(
        """
        import sys, time
        from runtime_metrics import RuntimeMetrics

        count, counted = sys.getallocatedblocks, []

        def slow():
            time.sleep(0.0005)
            counted.append(count())
            return counted[-1]

        sys.getallocatedblocks = slow
        RuntimeMetrics.enable(flush_interval=3600, level="standard")
        for _ in range(3):
            assert RuntimeMetrics.flush()
        print(*counted)
        RuntimeMetrics.disable()
        """,
        DD_DOGSTATSD_URL=flushes.url,
    )
    first, *others = flushes.rest()
    assert [first["mem.python.blocks"]] == [float(count) for count in counted.split()]
    assert len(others) == 3
    assert all("mem.python.blocks" not in flush.values for flush in others)


@contextmanager
def listener(family: socket.AddressFamily, path: Path) -> Iterator[socket.socket]:
    """A socket that listens over TCP, or at this path."""
    address = str(path / "listener") if family == socket.AF_UNIX else ("127.0.0.1", 0)
    with socket.socket(family) as listening:
        listening.bind(address)
        listening.listen(50)
        yield listening


def connect(stack: ExitStack, listening: socket.socket, number: int) -> None:
    """Makes so many connections to a listener."""
    for _ in range(number):
        client = stack.enter_context(socket.socket(listening.family))
        client.connect(listening.getsockname())


@checks("runtime.python.accept_queue.depth")
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_connections_wait_in_the_queue_until_they_are_accepted(
    flush: Callable[[], Flush], tmp_path: Path, family: socket.AddressFamily
) -> None:
    with listener(family, tmp_path) as listening, ExitStack() as stack:
        assert flush()["accept_queue.depth"] == 0
        connect(stack, listening, 7)
        assert flush()["accept_queue.depth"] == 7
        for _ in range(7):
            accepted, _ = listening.accept()
            stack.enter_context(accepted)
            accepted.send(b"?" * 1000)
        # Connections with data that nobody reads were accepted all the same.
        assert flush()["accept_queue.depth"] == 0
        connect(stack, listening, 2)
        assert flush()["accept_queue.depth"] == 2
    assert "accept_queue.depth" not in flush().values


def test_the_queue_is_not_that_of_another_process(flush: Callable[[], Flush], tmp_path: Path) -> None:
    with ExitStack() as stack:
        for family in (socket.AF_INET, socket.AF_UNIX):
            listening = stack.enter_context(listener(family, tmp_path))
            connect(stack, listening, 5)
            command = [sys.executable, "-c", "input()"]
            number = listening.fileno()
            child = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[number])
            stack.callback(child.wait, 10)
            stack.enter_context(child)
            # From now on it is the child's alone.
            listening.close()
        assert "accept_queue.depth" not in flush().values
        with listener(socket.AF_INET, tmp_path):
            assert flush()["accept_queue.depth"] == 0


def test_a_listener_of_the_first_minute_is_found_at_once_in_a_child_as_well(
    run_program: RunProgram, flushes: Flushes
) -> None:
    run_program(
        """
        import os, socket
        from runtime_metrics import RuntimeMetrics

        with socket.create_server(("127.0.0.1", 0)):
            RuntimeMetrics.enable(flush_interval=3600, level="standard")
            assert RuntimeMetrics.flush()
            with socket.create_server(("127.0.0.1", 0)) as later:
                clients = [socket.create_connection(later.getsockname()) for _ in range(3)]
                assert RuntimeMetrics.flush()
                if (child := os.fork()) == 0:
                    own = socket.create_server(("127.0.0.1", 0))
                    clients += [socket.create_connection(own.getsockname()) for _ in range(5)]
                    assert RuntimeMetrics.flush()
                    RuntimeMetrics.disable()
                    os._exit(0)
                assert os.waitpid(child, 0)[1] == 0
                for client in clients:
                    client.close()
        RuntimeMetrics.disable()
        """,
        DD_DOGSTATSD_URL=flushes.url,
    )
    first, second, of_child, *_ = [flush["accept_queue.depth"] for flush in flushes.rest()[:3]]
    assert (first, second, of_child) == (0, 3, 5)


@checks("runtime.python.gc.collected")
def test_collected_objects_are_those_that_gc_counts(flush: Callable[[], Flush]) -> None:
    flush()
    before = sum(generation["collected"] for generation in gc.get_stats())
    for _ in range(1000):
        knot: list[object] = []
        knot.append(knot)
    del knot
    gc.collect()
    expected = sum(generation["collected"] for generation in gc.get_stats()) - before
    assert flush()["gc.collected"] == expected >= 1000
    # Objects that reference counts free are not among them.
    gc.collect()
    flush()
    gc.disable()
    try:
        for _ in range(1000):
            assert [[]]
        gc.collect()
        assert flush()["gc.collected"] < 100
    finally:
        gc.enable()


@checks("runtime.python.gc.uncollectable")
def test_objects_that_cannot_be_collected_are_an_alarm(flush: Callable[[], Flush]) -> None:
    testcapi = pytest.importorskip("_testcapi", reason="this build of Python is without it")

    @testcapi.with_tp_del
    class Uncollectable:
        def __tp_del__(self) -> None:
            pass

    flush()
    for _ in range(3):
        knot = Uncollectable()
        knot.itself = knot  # type: ignore[attr-defined]
    del knot
    before = sum(generation["uncollectable"] for generation in gc.get_stats())
    gc.collect()
    expected = sum(generation["uncollectable"] for generation in gc.get_stats()) - before
    gc.garbage.clear()
    assert flush()["gc.uncollectable"] == expected >= 3
    assert "gc.uncollectable" not in flush().values


@checks("runtime.python.fd.count", "runtime.python.fd.percent")
def test_descriptors_are_exact(flush: Callable[[], Flush]) -> None:
    # The first flush opens our socket.
    flush()
    before = flush()["fd.count"]
    opened = [os.dup(0) for _ in range(100)]
    sent = flush()
    # It counts the one with which it lists them.
    expected = psutil.Process().num_fds() - 1
    for descriptor in opened:
        os.close(descriptor)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert sent["fd.count"] == expected == before + 100
    assert sent["fd.percent"] == pytest.approx(100 * expected / soft)
    assert flush()["fd.count"] == before


def test_the_numbers_of_closed_streams_are_not_counted(flushes: Flushes) -> None:
    def count(redirection: str) -> float:
        command = f'exec "$0" "$1" waiting 1 {redirection}'
        variables = {"DD_DOGSTATSD_URL": flushes.url}
        subprocess.run(
            ["/bin/sh", "-c", command, sys.executable, str(PROGRAM)],
            env=os.environ | variables,
            check=True,
            timeout=60,
        )
        _, observed, *_ = flushes.rest()
        return observed["fd.count"]

    assert count("<&- >&- 2>&-") == count("") - 3


@checks("runtime.python.process.uptime")
def test_uptime_begins_with_the_process(flush: Callable[[], Flush], observe: Callable[..., Flush]) -> None:
    assert flush()["process.uptime"] == pytest.approx(time.time() - psutil.Process().create_time(), abs=1)
    assert observe("idle")["process.uptime"] < 10


@checks("runtime.python.collector.cpu")
def test_our_own_cpu_time_is_that_of_our_threads(flushes: Flushes) -> None:
    def used() -> int:
        threads = [
            task / "schedstat"
            for task in Path("/proc/self/task").iterdir()
            if (task / "comm").read_text().startswith("rtm-")
        ]
        assert len(threads) == 2
        return sum(int(thread.read_text().split()[0]) for thread in threads)

    RuntimeMetrics.enable(dogstatsd_url=flushes.url, flush_interval=0.1, level="standard")
    flushes.next()
    before = used()
    # Each flush has what was used up to the end of the one before it.
    flushes.next()
    sent = [flushes.next()["collector.cpu"] for _ in range(19)]
    expected = used() - before
    sent.append(flushes.next()["collector.cpu"])
    # What waking up costs is the kernel's, and counted for the thread as well.
    assert 0.5 * expected < sum(sent) < 1.1 * expected


@checks("runtime.python.mem.swap")
def test_swapped_memory_is_that_of_the_kernel(flush: Callable[[], Flush]) -> None:
    # A machine without swap shows that it is watched; the rest is tried on files.
    assert flush()["mem.swap"] == int(status_line("VmSwap").split()[0]) * 1024


@checks("runtime.python.mem.faults.major")
def test_major_faults_are_an_alarm_where_pages_are_read_again_and_again(flush: Callable[[], Flush]) -> None:
    flush()
    with file_of(20 * MIB) as path, path.open("rb") as file:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            mapped.madvise(mmap.MADV_RANDOM)
            assert sum(mapped[:: mmap.PAGESIZE]) > 0
        expected = resource.getrusage(resource.RUSAGE_SELF).ru_majflt - before
        if expected < 1000:
            pytest.skip("the file system keeps its pages")
        assert flush()["mem.faults.major"] == pytest.approx(expected, abs=20)
        # Pages that are in memory are minor faults.
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            assert sum(mapped[:: mmap.PAGESIZE]) > 0
        time.sleep(0.1)
    assert "mem.faults.major" not in flush().values


def test_a_quiet_alarm_comes_with_the_first_flush_alone(flush: Callable[[], Flush]) -> None:
    first, second = flush().values, flush().values
    watched = {name for name in ALARMS if name in first}
    assert {"gc.uncollectable", "mem.faults.major"} <= watched
    assert watched.isdisjoint(second)
