"""A fork: the parent goes on as if nothing had been, the child is a process of its own. The kernel is the judge."""

from __future__ import annotations

import json
import os
import shutil
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
from receiving import NAMES, PREFIX, Flush, flush_of
from test_wheel import VERSIONS, interpreter, virtual_environment, wheel

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import RunProgram
    from receiving import Flushes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the oracle is Linux's /proc")

PROGRAMS = Path(__file__).parent / "programs"
INTERVAL = 0.4
CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True)
class Arrival:
    """A flush, and the process that the kernel says has sent it: 0 if the kernel does not say."""

    sender: int
    flush: Flush

    @property
    def id(self) -> str:
        """Who the flush says it is."""
        return self.flush.tag("runtime-id")


class Arrivals:
    """A receiver for many processes, emptied all the time."""

    def __init__(self, receiver: socket.socket, url: str) -> None:
        """Takes over a bound socket and begins to receive."""
        self.url = url
        self._socket = receiver
        self._received: list[tuple[int, bytes, float]] = []
        self._thread = threading.Thread(target=self._receive)
        self._thread.start()

    @classmethod
    def unix(cls, path: str) -> Arrivals:
        """On a socket that tells the senders' pids, and keeps no more than ten datagrams."""
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        receiver.bind(path)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        return cls(receiver, f"unix://{path}")

    @classmethod
    def udp(cls) -> Arrivals:
        """On a socket that keeps what a crowd sends."""
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        receiver.bind(("127.0.0.1", 0))
        return cls(receiver, f"udp://127.0.0.1:{receiver.getsockname()[1]}")

    def close(self) -> None:
        """Ends when everything has been received that was sent before."""
        with socket.socket(self._socket.family, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def all(self) -> list[Arrival]:
        """What has arrived, flush by flush."""
        # A flush begins with the first name; its other datagrams follow those of the same process.
        gathered: list[tuple[int, float, list[bytes]]] = []
        latest: dict[bytes, list[bytes]] = {}
        for sender, data, at in self._received:
            process = data.partition(b"runtime-id:")[2][:32]
            if data.startswith(f"{PREFIX}{NAMES[0]}:".encode()):
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
class Told:
    """What the processes of a program have told, and what has arrived from them."""

    facts: list[dict[str, Any]]
    arrivals: list[Arrival]
    stdout: str

    def fact(self, role: str) -> dict[str, Any]:
        """The one line of this role."""
        (fact,) = [fact for fact in self.facts if fact["role"] == role]
        return fact

    def sent_by(self, role: str) -> list[Arrival]:
        """What the process of this role has sent, oldest first."""
        return [arrival for arrival in self.arrivals if arrival.sender == self.fact(role)["pid"]]

    def ids(self, role: str) -> set[str]:
        """The names that the process of this role has given itself."""
        return {arrival.id for arrival in self.sent_by(role)}


class Programs:
    """Runs programs of the folder, each with a receiver of its own."""

    def __init__(self, folder: Path) -> None:
        """Their sockets and facts go into a folder."""
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
    ) -> Told:
        """Runs a program to its end; stderr is to be empty, or to end with a line that we do not appear in."""
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
                timeout=100,
            )
        finally:
            arrivals.close()
        said = done.stderr.splitlines()
        assert (done.returncode, said[-1:]) == (status, [error] * bool(error)), done.stderr
        assert "runtime_metrics/" not in done.stderr
        assert "panicked" not in done.stderr
        facts = [json.loads(line) for line in file.read_text().splitlines()]
        return Told(facts, arrivals.all(), done.stdout)


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


@pytest.mark.parametrize("kind", HOOKED)
def test_parent_and_child_are_measured_each_on_its_own(program: Programs, kind: str) -> None:
    told = program("forks.py", kind)
    assert_measured(told, "parent")
    assert_measured(told, "child")
    assert told.ids("parent").isdisjoint(told.ids("child"))
    assert set(told.fact("ours")["links"]).isdisjoint(told.fact("child")["inherited"])
    assert_first_interval_is_whole(told, "child")
    assert_no_interval_is_missed(told, "parent")


def test_a_fork_of_a_fork_is_a_process_of_its_own(program: Programs) -> None:
    told = program("forks.py", "grandchild")
    assert_measured(told, "grandchild")
    assert_first_interval_is_whole(told, "grandchild")
    assert told.fact("grandchild")["parent"] == told.fact("child")["pid"]
    assert told.ids("grandchild").isdisjoint(told.ids("child") | told.ids("parent"))
    assert sockets(told.fact("child")["own"]).isdisjoint(
        sockets(told.fact("grandchild")["own"]) - foreign(told)
    )


@pytest.mark.parametrize("kind", UNHOOKED)
def test_a_fork_behind_python_s_back_is_noticed_at_the_first_chance(program: Programs, kind: str) -> None:
    told = program("forks.py", kind)
    assert_measured(told, "parent")
    assert_measured(told, "child")
    assert told.ids("parent").isdisjoint(told.ids("child"))
    assert_no_interval_is_missed(told, "parent")
    # Inherited before anybody could do something about it, and let go.
    assert set(told.fact("ours")["links"]).isdisjoint(told.fact("child")["own"])


def assert_measured(told: Told, role: str) -> None:
    """What a process has sent is what the kernel has counted for it between its start and its end."""
    fact, sent = told.fact(role), told.sent_by(role)
    # A tick at least, and the last sample.
    assert len(sent) >= 2
    assert len(told.ids(role)) == 1
    last = sent[-1].flush
    assert sorted(last.values) == sorted(NAMES)
    assert last["mem.rss"] == pytest.approx(fact["resident"], rel=0.05)
    assert last["thread_count"] >= 1
    assert total(sent, "gc.collections.gen2") == fact["collections"]
    (cpu, switches), (cpu_before, switches_before) = fact["start"], fact["before"]
    cpu_after, switches_after = fact["after"]
    used = total(sent, "cpu.time.user") + total(sent, "cpu.time.sys")
    assert cpu_before - cpu - 0.02 <= used <= cpu_after - cpu + 0.02
    waited = total(sent, "cpu.ctx_switch.voluntary")
    assert switches_before - switches - 10 <= waited <= switches_after - switches + 10
    # A socket that nobody else in the family has.
    assert len(sockets(fact["own"]) - foreign(told)) == 1
    assert [name for name in fact["tasks_left"] if name.startswith("rtm-")] == []


def assert_first_interval_is_whole(told: Told, role: str) -> None:
    """The first flush comes one interval after the birth, whatever the parent's schedule."""
    assert told.sent_by(role)[0].flush.at - told.fact(role)["born"] > INTERVAL - 0.05


def assert_no_interval_is_missed(told: Told, role: str) -> None:
    """A tick for every interval that has passed, besides the flush asked for and the last sample."""
    fact = told.fact(role)
    assert len(told.sent_by(role)) - 2 >= int((fact["told"] - fact["born"]) / INTERVAL) - 1


def total(sent: list[Arrival], name: str) -> float:
    """The sum of what has been sent under a name."""
    return sum(arrival.flush[name] for arrival in sent)


def sockets(links: list[str]) -> set[str]:
    """The sockets among what descriptors lead to, by their inodes."""
    return {link for link in links if link.startswith("socket:")}


def foreign(told: Told) -> set[str]:
    """The sockets that the first process had been started with."""
    return sockets(told.fact("parent")["inherited"]) - sockets(told.fact("ours")["links"])


@pytest.mark.parametrize("kind", ["subprocess", "preexec_fn", "posix_spawn", "fork and exec"])
def test_an_executed_program_inherits_nothing_and_its_parent_goes_on(program: Programs, kind: str) -> None:
    told = program("forks.py", kind)
    executed = told.fact("executed")
    assert set(told.fact("ours")["links"]).isdisjoint(executed["links"])
    assert executed["tasks"] == []
    assert told.sent_by("executed") == []
    assert told.fact("parent")["threads"].count("rtm-sampler") == 1
    # The flush asked for, a tick at least, the last sample.
    assert len(told.sent_by("parent")) >= 3
    assert len(told.ids("parent")) == 1


def test_a_process_that_executes_another_program_is_gone(program: Programs) -> None:
    told = program("forks.py", "exec")
    executed = told.fact("executed")
    assert executed["pid"] == told.fact("ours")["pid"]
    assert set(told.fact("ours")["links"]).isdisjoint(executed["links"])
    assert executed["tasks"] == []
    # The flush asked for, before.
    assert len(told.arrivals) == 1


def test_a_child_of_a_process_that_is_not_measured_any_more_is_not_either(program: Programs) -> None:
    told = program("forks.py", "while disabled")
    assert told.fact("quiet")["enabled"] is False
    assert told.fact("parent")["enabled"] is False
    # The last sample of disable().
    assert len(told.sent_by("parent")) == 1
    assert len(told.sent_by("child")) >= 2
    assert len(told.ids("child")) == 1
    assert told.ids("parent").isdisjoint(told.ids("child"))


def test_a_child_can_disable_without_its_parent(program: Programs) -> None:
    told = program("forks.py", "disable in child")
    assert told.fact("child")["enabled"] is False
    assert told.fact("child")["tasks"] == []
    assert told.fact("parent")["enabled"] is True
    (last,) = told.sent_by("child")
    assert last.id not in told.ids("parent")
    # Ticks while the child was there, and the last sample.
    assert len(told.sent_by("parent")) >= 3
    assert len(told.ids("parent")) == 1


def test_a_child_can_enable_without_its_parent(program: Programs) -> None:
    told = program("forks.py", "enable only in child")
    parent, child = told.fact("parent"), told.fact("child")
    assert (parent["enabled"], parent["tasks"]) == (False, [])
    assert {arrival.sender for arrival in told.arrivals} == {child["pid"]}
    assert total(told.sent_by("child"), "gc.collections.gen2") == child["collections"]
    assert_first_interval_is_whole(told, "child")


def test_forks_during_ticks_give_children_that_report(program: Programs) -> None:
    told = program("forks.py", "during ticks")
    parent = told.fact("parent")["pid"]
    # A child may have lived until a tick of its own.
    children = [arrival for arrival in told.arrivals if arrival.sender != parent]
    assert len({arrival.sender for arrival in children}) == told.fact("parent")["forks"]
    assert len({arrival.id for arrival in told.arrivals}) == 1 + told.fact("parent")["forks"]
    assert max(arrival.flush["cpu.time.user"] for arrival in children) < 0.2


def test_frequent_forks_do_not_put_off_the_parent_s_ticks(program: Programs) -> None:
    told = program("forks.py", "often")
    parent = told.fact("parent")
    assert parent["forks"] > 20
    assert len(told.ids("parent")) == 1
    # One for each of six intervals, and the last sample.
    assert len(told.sent_by("parent")) in (6, 7)
    gaps = [later.flush.at - earlier.flush.at for earlier, later in pairwise(told.sent_by("parent")[:-1])]
    assert max(gaps) < 2 * INTERVAL


def test_a_fork_that_fails_changes_nothing(program: Programs, no_fork: str) -> None:
    told = program("forks.py", "failing", environment={"LD_PRELOAD": no_fork})
    parent = told.fact("parent")
    assert parent["failures"] == 3
    assert "rtm-sampler" in parent["tasks"]
    # Four intervals, and the last sample.
    assert len(told.arrivals) >= 4
    assert len(told.ids("parent")) == 1
    # What is left to do at the end of a fork must not be tried again and again.
    assert parent["slowed"] < 10


@pytest.fixture
def no_fork(tmp_path: Path) -> str:
    """A library with which no fork succeeds."""
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("needs a C compiler for a library that has forks fail")
    library = tmp_path / "no_fork.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, PROGRAMS / "no_fork.c"], check=True)
    return str(library)


FORKS = 2000


@pytest.mark.parametrize("by", [0, 1, 4], ids=["main thread", "another thread", "four threads"])
def test_two_thousand_forks_of_a_busy_process_lose_no_child_and_no_interval(
    program: Programs, by: int
) -> None:
    told = program(
        "crowd.py", str(FORKS), "--crowded", "--threads", str(by), options=(), interval=0.25, udp=True
    )
    parent = told.fact("parent")
    assert parent["statuses"] == {"well": FORKS}
    flushes = Counter(arrival.id for arrival in told.arrivals)
    (_, parents), *children = flushes.most_common()
    assert [number for _, number in children] == [1] * FORKS
    # A tick for every interval, besides what was asked for.
    assert parents - parent["asked_for"] >= int(parent["seconds"]) - 1
    last_samples = [arrival.flush for arrival in told.arrivals if flushes[arrival.id] == 1]
    assert max(flush["cpu.time.user"] + flush["cpu.time.sys"] for flush in last_samples) < 1


@pytest.fixture(scope="module")
def environments(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """An interpreter of a version with the package, made once."""

    @cache
    def environment(version: str) -> str:
        if (python := interpreter(version)) is None:
            pytest.skip(f"no CPython {version} on this machine")
        return virtual_environment(python, tmp_path_factory.mktemp("environment"), wheel())

    return environment


@pytest.mark.parametrize("modules", ["before", "after", "never"])
@pytest.mark.parametrize("version", VERSIONS)
def test_no_fork_is_warned_of_without_another_thread(
    program: Programs, environments: Callable[[str], str], version: str, modules: str
) -> None:
    python = environments(version)
    told = program("crowd.py", "300", "--modules", modules, python=python, options=(), udp=True)
    assert told.fact("parent")["statuses"] == {"well": 300}
    assert (told.fact("parent")["warnings"], told.fact("parent")["kinds"]) == (0, [])


@pytest.mark.parametrize("by", [0, 1], ids=["main thread", "another thread"])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_process_with_threads_is_warned_of_as_often_as_without_us(
    program: Programs, environments: Callable[[str], str], version: str, by: int
) -> None:
    python = environments(version)
    arguments = ["crowd.py", "100", "--crowded", "--threads", str(by)]
    ours = program(*arguments, python=python, options=(), udp=True).fact("parent")
    bare = program(*arguments, "--bare", python=python, options=(), udp=True).fact("parent")
    assert sum(ours["statuses"].values()) == sum(bare["statuses"].values()) == 100
    assert (ours["warnings"], ours["kinds"]) == (bare["warnings"], bare["kinds"])


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


def test_a_child_gets_the_lock_of_a_log_handler_that_we_were_calling(run_program: RunProgram) -> None:
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
        # Nobody is there, which is worth a warning.
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
    # Half of those that waited for a flush would take longer.
    assert float(printed) < 0.03
