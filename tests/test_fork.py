"""Forks: the parent continues unchanged, and the child is measured as a separate process. The kernel is the oracle."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from functools import cache
from itertools import count, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from catalogue_names import FIRST, LEVEL, also_at_standard, assert_complete
from launching import each_version
from receiving import Flush, flush_of, unnamed

if TYPE_CHECKING:
    from conftest import InstalledIn, Preloaded, RunProgram
    from receiving import Flushes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the oracle is Linux's /proc")

PROGRAMS = Path(__file__).parent / "programs"
INTERVAL = 0.4
CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True)
class Arrival:
    """A flush, and the id of the process that has sent it as the kernel says: 0 where it does not."""

    sender: int
    flush: Flush

    @property
    def id(self) -> str:
        """The runtime-id of the flush."""
        return self.flush.tag("runtime-id")


class Arrivals:
    """A receiver for many processes, which is read all the time."""

    def __init__(self, receiver: socket.socket, url: str) -> None:
        """Takes over a bound socket and starts to receive."""
        self.url = url
        self._socket = receiver
        self._received: list[tuple[int, bytes, float]] = []
        self._thread = threading.Thread(target=self._receive)
        self._thread.start()

    @classmethod
    def unix(cls, path: str) -> Arrivals:
        """On a socket that gives the pids of senders, and holds no more than ten datagrams."""
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        receiver.bind(path)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        return cls(receiver, f"unix://{path}")

    @classmethod
    def udp(cls) -> Arrivals:
        """On a socket with a buffer for thousands of datagrams."""
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        receiver.bind(("127.0.0.1", 0))
        return cls(receiver, f"udp://127.0.0.1:{receiver.getsockname()[1]}")

    def close(self) -> None:
        """Stops once everything that was sent has been received."""
        with socket.socket(self._socket.family, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def all(self) -> list[Arrival]:
        """What has arrived, by flush."""
        # A flush starts with the first name; its other datagrams are the next ones of the same process.
        gathered: list[tuple[int, float, list[bytes]]] = []
        latest: dict[bytes, list[bytes]] = {}
        for sender, data, at in self._received:
            process = data.partition(b"runtime-id:")[2][:32]
            if data.startswith(FIRST):
                latest[process] = [data]
                gathered.append((sender, at, latest[process]))
            else:
                latest[process].append(data)
        return [Arrival(sender, flush_of(datagrams, at)) for sender, at, datagrams in gathered]

    def _receive(self) -> None:
        while True:
            data, ancillary, _, _ = self._socket.recvmsg(65536, socket.CMSG_SPACE(CREDENTIALS.size))
            if not data:
                return
            sender = next((CREDENTIALS.unpack(credentials)[0] for _, _, credentials in ancillary), 0)
            self._received.append((sender, data, time.monotonic()))


@dataclass(frozen=True)
class ProgramRun:
    """What the processes of a program have reported, and what has arrived from them."""

    facts: list[dict[str, Any]]
    arrivals: list[Arrival]
    stdout: str

    def fact(self, role: str) -> dict[str, Any]:
        """The only report of this role."""
        (fact,) = [fact for fact in self.facts if fact["role"] == role]
        return fact

    def sent_by(self, role: str) -> list[Arrival]:
        """What the process of this role has sent, oldest first."""
        return [arrival for arrival in self.arrivals if arrival.sender == self.fact(role)["pid"]]

    def ids(self, role: str) -> set[str]:
        """The runtime-ids that the process of this role has sent."""
        return {arrival.id for arrival in self.sent_by(role)}


class Programs:
    """Runs programs of tests/programs, each with a new receiver."""

    def __init__(self, folder: Path) -> None:
        """Their sockets and reports go into a folder."""
        self._folder = folder
        self._runs = count()

    def __call__(
        self,
        program: str,
        *arguments: str,
        python: str = sys.executable,
        options: tuple[str, ...] = ("-W", "error"),
        interval: float = INTERVAL,
        udp: bool = False,
        environment: dict[str, str] | None = None,
        status: int = 0,
        error: str = "",
        warns: bool = False,
        timeout: float = 100,
    ) -> ProgramRun:
        """Runs a program to its end; stderr must be empty or end with this line, and must not mention us.

        Where metrics go nowhere (`warns`) it may have our warning.
        """
        file = self._folder / "facts"
        file.write_text("")
        arrivals = Arrivals.udp() if udp else Arrivals.unix(str(self._folder / f"receiver{next(self._runs)}"))
        try:
            done = subprocess.run(
                [python, *options, str(PROGRAMS / program), *arguments],
                env=os.environ
                | {
                    "DD_DOGSTATSD_URL": arrivals.url,
                    "DD_RUNTIME_METRICS_INTERVAL": str(interval),
                    "FACTS": str(file),
                }
                | (environment or {}),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=timeout,
            )
        finally:
            arrivals.close()
        lines = [
            line for line in done.stderr.splitlines() if not (warns and line.startswith("runtime-metrics["))
        ]
        assert (done.returncode, lines[-1:]) == (status, [error] * bool(error)), done.stderr
        assert "runtime_metrics/" not in done.stderr
        assert "panicked" not in done.stderr
        facts = [json.loads(line) for line in file.read_text().splitlines()]
        return ProgramRun(facts, arrivals.all(), done.stdout)


@pytest.fixture
def program(tmp_path: Path) -> Programs:
    """Runs programs."""
    return Programs(tmp_path)


HOOKED = ["os.fork", "pty.fork", "thread", "finaliser", "grandchild", "daemon", "daemon that closes all"]
UNHOOKED = [
    f"{library} noticed by {name}"
    for library in ("PyDLL", "CDLL")
    for name in ("flush", "snapshot", "collection", "enable")
]


@also_at_standard("kind", HOOKED, "os.fork", "thread", "finaliser", "daemon")
def test_parent_and_child_are_measured_separately(program: Programs, kind: str) -> None:
    run = program("forks.py", kind)
    assert_measured(run, "parent")
    assert_measured(run, "child")
    assert run.ids("parent").isdisjoint(run.ids("child"))
    assert set(run.fact("ours")["links"]).isdisjoint(run.fact("child")["inherited"])
    assert_first_interval_is_whole(run, "child")
    assert_no_interval_is_missed(run, "parent")


@pytest.mark.parametrize("kind", ["os.fork", "thread", "daemon"])
def test_a_child_is_known_by_its_pid_where_no_page_is_wiped(
    program: Programs, preloaded: Preloaded, kind: str
) -> None:
    run = program("forks.py", kind, environment={"LD_PRELOAD": preloaded("copied_pages")})
    assert_measured(run, "parent")
    assert_measured(run, "child")
    assert run.ids("parent").isdisjoint(run.ids("child"))


def test_a_fork_of_a_fork_is_a_separate_process(program: Programs) -> None:
    run = program("forks.py", "grandchild")
    assert_measured(run, "grandchild")
    assert_first_interval_is_whole(run, "grandchild")
    assert run.fact("grandchild")["parent"] == run.fact("child")["pid"]
    assert run.ids("grandchild").isdisjoint(run.ids("child") | run.ids("parent"))
    assert sockets(run.fact("child")["own"]).isdisjoint(sockets(run.fact("grandchild")["own"]) - foreign(run))


# It forks between two ticks, which other tests would delay.
@pytest.mark.measures
@pytest.mark.parametrize("kind", UNHOOKED)
def test_a_fork_by_c_code_is_noticed_at_the_next_call(program: Programs, kind: str) -> None:
    run = program("forks.py", kind)
    assert_measured(run, "parent")
    assert_measured(run, "child")
    assert run.ids("parent").isdisjoint(run.ids("child"))
    assert_no_interval_is_missed(run, "parent")
    # The child has inherited them, and has closed them.
    assert set(run.fact("ours")["links"]).isdisjoint(run.fact("child")["own"])


def assert_measured(run: ProgramRun, role: str) -> None:
    """What a process has sent is what the kernel has counted for it between its start and its end."""
    fact, sent = run.fact(role), run.sent_by(role)
    # At least one tick, and the last sample.
    assert len(sent) >= 2
    assert len(run.ids(role)) == 1
    last = sent[-1].flush
    assert_complete(last.values)
    assert last["mem.rss"] == pytest.approx(fact["resident"], rel=0.05)
    assert last["thread_count"] >= 1
    assert total(sent, "gc.collections.gen2") == fact["collections"]
    (cpu, switches), (cpu_before, switches_before) = fact["start"], fact["before"]
    cpu_after, switches_after = fact["after"]
    used = total(sent, "cpu.time.user") + total(sent, "cpu.time.sys")
    assert cpu_before - cpu - 0.02 <= used <= cpu_after - cpu + 0.02
    waited = total(sent, "cpu.ctx_switch.voluntary")
    assert switches_before - switches - 10 <= waited <= switches_after - switches + 10
    # A socket that no other process of the program has.
    assert len(sockets(fact["own"]) - foreign(run)) == 1
    assert [name for name in fact["tasks_left"] if name.startswith("rtm-")] == []


def assert_first_interval_is_whole(run: ProgramRun, role: str) -> None:
    """The first flush comes one interval after the start of the process, whatever the parent's schedule is."""
    assert run.sent_by(role)[0].flush.at - run.fact(role)["born"] > INTERVAL - 0.05


def assert_no_interval_is_missed(run: ProgramRun, role: str) -> None:
    """There is a tick for each interval that has passed, besides the explicit flush and the last sample."""
    fact = run.fact(role)
    assert len(run.sent_by(role)) - 2 >= int((fact["reported"] - fact["born"]) / INTERVAL) - 1


def total(sent: list[Arrival], name: str) -> float:
    """The sum of the values that have been sent under a name."""
    return sum(arrival.flush[name] for arrival in sent)


def sockets(links: list[str]) -> set[str]:
    """The sockets among the targets of descriptors, by their inodes."""
    return {link for link in links if link.startswith("socket:")}


def foreign(run: ProgramRun) -> set[str]:
    """The sockets that the first process had been started with."""
    return sockets(run.fact("parent")["inherited"]) - sockets(run.fact("ours")["links"])


@pytest.mark.parametrize("kind", ["subprocess", "preexec_fn", "posix_spawn", "fork and exec"])
def test_an_executed_program_inherits_nothing_and_its_parent_continues(program: Programs, kind: str) -> None:
    run = program("forks.py", kind)
    executed = run.fact("executed")
    assert set(run.fact("ours")["links"]).isdisjoint(executed["links"])
    assert executed["tasks"] == []
    assert run.sent_by("executed") == []
    assert run.fact("parent")["threads"].count("rtm-sampler") == 1
    # The explicit flush, at least one tick, and the last sample.
    assert len(run.sent_by("parent")) >= 3
    assert len(run.ids("parent")) == 1


def test_a_process_that_executes_another_program_stops_reporting(program: Programs) -> None:
    run = program("forks.py", "exec")
    executed = run.fact("executed")
    assert executed["pid"] == run.fact("ours")["pid"]
    assert set(run.fact("ours")["links"]).isdisjoint(executed["links"])
    assert executed["tasks"] == []
    # The flush before.
    assert len(run.arrivals) == 1


def test_a_child_of_a_disabled_parent_is_not_measured(program: Programs) -> None:
    run = program("forks.py", "while disabled")
    assert run.fact("before enable")["enabled"] is False
    assert run.fact("parent")["enabled"] is False
    # The last sample of disable().
    assert len(run.sent_by("parent")) == 1
    assert len(run.sent_by("child")) >= 2
    assert len(run.ids("child")) == 1
    assert run.ids("parent").isdisjoint(run.ids("child"))


def test_a_child_can_disable_without_its_parent(program: Programs) -> None:
    run = program("forks.py", "disable in child")
    assert run.fact("child")["enabled"] is False
    assert run.fact("child")["tasks"] == []
    assert run.fact("parent")["enabled"] is True
    (last,) = run.sent_by("child")
    assert last.id not in run.ids("parent")
    # Ticks while the child lived, and the last sample.
    assert len(run.sent_by("parent")) >= 3
    assert len(run.ids("parent")) == 1


def test_a_child_can_enable_without_its_parent(program: Programs) -> None:
    run = program("forks.py", "enable only in child")
    parent, child = run.fact("parent"), run.fact("child")
    assert (parent["enabled"], parent["tasks"]) == (False, [])
    assert {arrival.sender for arrival in run.arrivals} == {child["pid"]}
    assert total(run.sent_by("child"), "gc.collections.gen2") == child["collections"]
    assert_first_interval_is_whole(run, "child")


@pytest.mark.measures
def test_children_forked_during_ticks_report(program: Programs) -> None:
    run = program("forks.py", "during ticks")
    parent = run.fact("parent")["pid"]
    # A child may have lived long enough for a tick.
    children = [arrival for arrival in run.arrivals if arrival.sender != parent]
    assert len({arrival.sender for arrival in children}) == run.fact("parent")["forks"]
    assert len({arrival.id for arrival in run.arrivals}) == 1 + run.fact("parent")["forks"]
    assert max(arrival.flush["cpu.time.user"] for arrival in children) < 0.2


@pytest.mark.measures
def test_frequent_forks_do_not_delay_the_parent_s_ticks(program: Programs) -> None:
    run = program("forks.py", "often")
    parent = run.fact("parent")
    assert parent["forks"] > 20
    assert len(run.ids("parent")) == 1
    # One for each of six intervals, and the last sample.
    assert len(run.sent_by("parent")) in (6, 7)
    gaps = [later.flush.at - earlier.flush.at for earlier, later in pairwise(run.sent_by("parent")[:-1])]
    assert max(gaps) < 2 * INTERVAL


@pytest.mark.measures
def test_a_fork_that_fails_changes_nothing(program: Programs, preloaded: Preloaded) -> None:
    run = program("forks.py", "failing", environment={"LD_PRELOAD": preloaded("no_fork")})
    parent = run.fact("parent")
    assert parent["failures"] == 3
    assert "rtm-sampler" in parent["tasks"]
    # Four intervals, and the last sample.
    assert len(run.arrivals) >= 4
    assert len(run.ids("parent")) == 1
    # What remains to be done after a fork must not be tried again at each call.
    assert parent["slowed"] < 10


@cache
def enters_namespaces_without_us(program: Programs) -> bool:
    """Whether a process with one thread may do so here, without us."""
    errors: list[str | None] = program("late_threads.py", "without us").fact("entered")["errors"]
    return errors == [None, None]


@pytest.mark.parametrize("kind", ["os.fork", "preexec_fn", "multiprocessing"])
@each_version
def test_a_child_is_single_threaded_at_first_and_then_reports(
    program: Programs, installed_in: InstalledIn, version: str, kind: str
) -> None:
    if not enters_namespaces_without_us(program):
        pytest.skip("needs to be allowed to enter namespaces")
    run = program("late_threads.py", kind, python=installed_in(version))
    entered = run.fact("entered")
    assert (entered["threads"], entered["errors"]) == (1, [None, None])
    if kind == "preexec_fn":
        assert [arrival for arrival in run.arrivals if arrival.sender == entered["pid"]] == []
    else:
        # At least one tick, and the last sample.
        assert len(run.sent_by("child")) >= 2
        assert total(run.sent_by("child"), "gc.collections.gen2") == 3
        assert_first_interval_is_whole(run, "child")


def test_a_process_can_end_our_threads_to_enter_namespaces(program: Programs) -> None:
    if not enters_namespaces_without_us(program):
        pytest.skip("needs to be allowed to enter namespaces")
    run = program("late_threads.py", "disabling")
    assert (run.fact("entered")["threads"], run.fact("entered")["errors"]) == (1, [None, None])
    # The last sample of disable(), at least one tick, and the last sample at the end.
    assert len(run.sent_by("child")) >= 3


def test_a_child_that_waits_in_c_code_from_the_start_reports_once_it_runs_python_code(
    program: Programs,
) -> None:
    run = program("late_threads.py", "asleep")
    # The tick that was due at its first interval, the next one, and the last sample.
    assert len(run.sent_by("child")) >= 3


def test_a_child_that_enables_metrics_reports_while_it_waits_in_c_code(program: Programs) -> None:
    run = program("late_threads.py", "asleep after enabling")
    # A tick, and the last sample.
    assert len(run.sent_by("child")) >= 2


@each_version
def test_no_thread_of_a_child_starts_while_it_forks(
    program: Programs, installed_in: InstalledIn, version: str
) -> None:
    run = program("late_threads.py", "forking", python=installed_in(version))
    assert run.fact("forking")["threads"] == []
    assert run.sent_by("grandchild")


@each_version
def test_an_idle_worker_of_a_pool_reports(program: Programs, installed_in: InstalledIn, version: str) -> None:
    run = program("late_threads.py", "idle pool", python=installed_in(version))
    # The workers are killed, so that all they have sent are ticks.
    assert len({arrival.sender for arrival in run.arrivals}) == 3


REFUSED = (
    "no thread can be started: Resource temporarily unavailable (os error 11) "
    "(is a limit on processes or memory reached?)"
)


@pytest.mark.parametrize("meanwhile", ["sleep", "collect", "make_children"])
@pytest.mark.parametrize("role", ["parent", "child", "start"])
@each_version
def test_a_thread_that_the_system_refuses_is_started_as_soon_as_it_can_be(
    program: Programs, installed_in: InstalledIn, version: str, role: str, meanwhile: str
) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to become a user without other processes")
    if role == "parent" and version in ("3.10", "3.11"):
        pytest.skip("there a parent keeps its threads")
    if (role, meanwhile) == ("parent", "make_children"):
        pytest.skip("a child takes the place of the thread")
    run = program("late_threads.py", f"{role}, {meanwhile}", python=installed_in(version), udp=True)
    fact = run.fact(role)
    assert fact["is_refused"] is True
    assert (fact["refused"]["state"], fact["refused"]["error"]) == ("on demand", REFUSED)
    assert fact["state"] == "working"
    logged = [unnamed(message).split(":")[0] for message in fact["logged"]]
    assert [message for message in logged if not message.startswith("INFO runtime metrics are sent")] == [
        "WARNING nothing is sent but by flush() and at exit",
        "INFO a thread could be started",
    ]
    # Enabling again sends nothing.
    assert fact["refused"]["packets_sent"] == 0
    ids = {arrival.id for arrival in run.arrivals}
    assert len(ids) == (2 if role == "child" else 1)


FORKS = 2000
# Seconds, on a slow machine.
FORKS_TIMEOUT = 400


@pytest.mark.timeout(FORKS_TIMEOUT)
@pytest.mark.parametrize("by", [0, 1, 4], ids=["main thread", "another thread", "four threads"])
def test_two_thousand_forks_of_a_busy_process_lose_no_child_and_no_interval(
    program: Programs, by: int
) -> None:
    arguments = ["many_forks.py", str(FORKS), "--busy", "--threads", str(by)]
    run = program(*arguments, options=(), interval=0.25, udp=True, timeout=FORKS_TIMEOUT - 20)
    parent = run.fact("parent")
    assert parent["statuses"] == {"ended": FORKS}
    flushes = Counter(arrival.id for arrival in run.arrivals)
    (_, parents), *children = flushes.most_common()
    assert [number for _, number in children] == [1] * FORKS
    # A tick for each interval, besides the explicit flushes.
    assert parents - parent["asked_for"] >= int(parent["seconds"]) - 1
    last_samples = [arrival.flush for arrival in run.arrivals if flushes[arrival.id] == 1]
    assert max(flush["cpu.time.user"] + flush["cpu.time.sys"] for flush in last_samples) < 1


@also_at_standard("modules", ["before", "after", "never"], "after")
@each_version
def test_python_does_not_warn_of_forks_without_other_threads(
    program: Programs, installed_in: InstalledIn, version: str, modules: str, level: str
) -> None:
    python, forks = installed_in(version), 300 if level == LEVEL else 50
    run = program("many_forks.py", str(forks), "--modules", modules, python=python, options=(), udp=True)
    assert run.fact("parent")["statuses"] == {"ended": forks}
    assert (run.fact("parent")["warnings"], run.fact("parent")["kinds"]) == (0, [])


@pytest.mark.parametrize("by", [0, 1], ids=["main thread", "another thread"])
@each_version
def test_python_warns_of_forks_beside_threads_as_often_as_without_us(
    program: Programs, installed_in: InstalledIn, version: str, by: int
) -> None:
    python, forks = installed_in(version), 100
    arguments = ["many_forks.py", str(forks), "--busy", "--threads", str(by)]
    ours = program(*arguments, python=python, options=(), udp=True).fact("parent")
    bare = program(*arguments, "--bare", python=python, options=(), udp=True).fact("parent")
    assert sum(ours["statuses"].values()) == sum(bare["statuses"].values()) == forks
    assert (ours["warnings"], ours["kinds"]) == (bare["warnings"], bare["kinds"])


def test_a_child_does_not_wait_for_what_another_thread_was_doing_for_the_first_time() -> None:
    command = [sys.executable, "-W", "error", str(PROGRAMS / "first_uses.py")]
    # In one process of five, a child waited for ever.
    for _ in range(20):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert (done.returncode, done.stderr) == (0, "")
        assert set(json.loads(done.stdout)) == {0}


def test_a_pool_whose_initializer_enables_again_is_not_warned(
    run_program: RunProgram, flushes: Flushes
) -> None:
    printed = run_program(
        """
        import multiprocessing, os
        from runtime_metrics import RuntimeMetrics
        def enable(tags):
            RuntimeMetrics.enable(flush_interval=60.0, service="shop", tags=tags)
        def work(number):
            return number, RuntimeMetrics._enabled
        enable({"team": "a"})
        # Warnings of the workers would be on stderr.
        with multiprocessing.get_context("fork").Pool(2, enable, [["team:a"]]) as pool:
            print(pool.map(work, range(2), chunksize=1))
        """,
        DD_DOGSTATSD_URL=flushes.url,
    )
    assert printed == "[(0, True), (1, True)]\n"


def test_a_child_can_take_a_lock_of_a_log_handler_that_was_running(run_program: RunProgram) -> None:
    run_program(
        """
        import logging, os, threading, time
        from runtime_metrics import RuntimeMetrics
        lock, called = threading.Lock(), threading.Event()
        class Handler(logging.Handler):
            def emit(self, record):
                with lock:
                    called.set()
                    time.sleep(0.3)
        logging.getLogger("runtime_metrics").addHandler(Handler())
        # Without a receiver, there is a warning.
        RuntimeMetrics.enable(dogstatsd_url="unix:///nowhere/dsd.socket", flush_interval=0.05)
        assert called.wait(20)
        if child := os.fork():
            assert os.waitpid(child, 0)[1] == 0
        else:
            os._exit(0 if lock.acquire(timeout=5) else 1)
        """,
        "-W",
        "ignore",
    )


@pytest.mark.measures
def test_a_fork_does_not_wait_for_a_receiver_that_does_not_read(
    run_program: RunProgram, tmp_path: Path
) -> None:
    printed = run_program(
        """
        import logging, os, socket, statistics, threading, time
        from runtime_metrics import RuntimeMetrics
        logging.disable()
        path = os.environ["SOCKET"]
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(path)
        listener.listen()
        RuntimeMetrics.enable(dogstatsd_url=f"unixstream://{path}", flush_interval=3600)
        while RuntimeMetrics.flush():
            pass
        # From now on each flush waits for a tenth of a second.
        ended = threading.Event()
        def flush():
            while not ended.is_set():
                RuntimeMetrics.flush()
        flushing = threading.Thread(target=flush)
        flushing.start()
        took = []
        for _ in range(21):
            time.sleep(0.03)
            began = time.monotonic()
            child = os.fork()
            if child == 0:
                os._exit(0)
            took.append(time.monotonic() - began)
            os.waitpid(child, 0)
        ended.set()
        flushing.join()
        print(statistics.median(took))
        RuntimeMetrics.disable()
        """,
        "-W",
        "ignore",
        SOCKET=str(tmp_path / "dsd.socket"),
    )
    # If forks waited for flushes, half of them would take longer.
    assert float(printed) < 0.03
