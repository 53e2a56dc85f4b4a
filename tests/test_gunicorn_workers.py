"""Gunicorn's master on its workers: how many there are, what they do, and whether any are there at all."""

from __future__ import annotations

import base64
import os
import signal
import sys
import time
from collections import Counter
from contextlib import ExitStack, closing
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import psutil
import pytest
from gunicorns import CLASSES, NEEDS, OURS
from masters import States, leading
from serving import PATIENCE, TROUBLE, need

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from masters import Master

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="needs Linux, where a Unix socket tells which process has sent"
)

WORKERS = {
    worker: f"{OURS} {options} held:{application}" for worker, (options, application) in CLASSES.items()
}
SYNC = WORKERS["sync"]

# Beside this, whatever Gunicorn does between two looks at its workers takes no time.
LONGER = {"DD_RUNTIME_METRICS_INTERVAL": "0.5"}


def as_the_agent_sees(name: str) -> States:
    """The Datadog Agent's way: whatever the master has for children works if its CPU time changes within 0.1 s."""
    (master,) = [
        process for process in psutil.Process().children() if title(process) == f"gunicorn: master [{name}]"
    ]
    before = {child.pid: cpu_time(child) for child in master.children()}
    time.sleep(0.1)
    changed = [cpu_time(psutil.Process(pid)) != seconds for pid, seconds in before.items()]
    return States(idle=changed.count(False), working=changed.count(True))


def title(process: psutil.Process) -> str:
    """What a process calls itself."""
    return process.cmdline()[0]


def cpu_time(process: psutil.Process) -> float:
    """Seconds, in steps of 10 ms."""
    times = process.cpu_times()
    return float(times.user + times.system)


@pytest.mark.parametrize(
    ("doing", "agents"),
    [("/spin", States(idle=1, working=2)), ("/hold", States(idle=3, working=0))],
)
def test_workers_in_requests_work_and_the_agents_way_misses_those_that_wait(
    tmp_path: Path, doing: str, agents: States
) -> None:
    need("gunicorn", "setproctitle")
    with leading(f"{SYNC} --workers 3 --name shop", tmp_path) as server:
        server.until_states(idle=3, working=0)
        with server.request(doing) as one, server.request(doing) as other:
            assert one.pid != other.pid
            server.until_states(idle=1, working=2)
            # On a busy machine a process may have no turn for as long as the Agent looks.
            server.until(lambda: as_the_agent_sees("shop") == agents)
            assert set(server.next_states(5)) == {States(idle=1, working=2)}
            one.release()
            other.release()
        server.until_states(idle=3, working=0)
        assert server.end() == 0
    assert TROUBLE.findall(server.stderr()) == []


@pytest.mark.parametrize(
    ("doing", "seen"), [("/spin", States(idle=1, working=2)), ("/hold", States(idle=3, working=0))]
)
def test_by_cpu_time_workers_work_that_spin_and_none_that_waits_as_for_the_agent(
    tmp_path: Path, doing: str, seen: States
) -> None:
    need("gunicorn", "setproctitle")
    settings = LONGER | {"DD_RUNTIME_METRICS_GUNICORN_WORKER_STATE": "cpu"}
    with leading(f"{SYNC} --workers 3 --name shop", tmp_path, **settings) as server:
        server.until_states(idle=3, working=0)
        with server.request(doing) as one, server.request(doing) as other:
            assert one.pid != other.pid
            # What the master says next may have been on its way.
            server.next_states(1)
            server.until(lambda: server.next_states(3) == [seen] * 3)
            server.until(lambda: as_the_agent_sees("shop") == seen)
        server.until_states(idle=3, working=0)
        assert server.end() == 0
    assert TROUBLE.findall(server.stderr()) == []


@pytest.mark.parametrize("worker", CLASSES)
def test_a_worker_works_from_a_requests_beginning_to_any_of_its_ends(tmp_path: Path, worker: str) -> None:
    need("gunicorn", *NEEDS.get(worker, "").split())
    with leading(f"{WORKERS[worker]} --workers 2", tmp_path) as server:
        server.until_states(idle=2, working=0)
        with server.request("/hold") as request:
            server.until_states(idle=1, working=1)
            assert set(server.next_states(4)) == {States(idle=1, working=1)}
            request.release()
            assert request.end() == b"done\n"
        server.until_states(idle=2, working=0)
        with server.request("/raise") as request:
            server.until_states(idle=1, working=1)
            request.release()
            assert request.end() == b""
        server.until_states(idle=2, working=0)
        with server.request("/hold"):
            server.until_states(idle=1, working=1)
            # The client hangs up.
        server.until_states(idle=2, working=0)
        assert set(server.next_states(2)) == {States(idle=2, working=0)}


@pytest.mark.parametrize("worker", ["gthread", "gevent", "asgi", "uvicorn"])
def test_a_worker_works_until_the_last_of_its_requests_has_ended(tmp_path: Path, worker: str) -> None:
    need("gunicorn", *NEEDS.get(worker, "").split())
    with leading(f"{WORKERS[worker]} --workers 1", tmp_path) as server:
        with server.request("/hold") as one, server.request("/hold") as other:
            assert one.pid == other.pid
            server.until_states(idle=0, working=1)
            one.release()
            assert one.end() == b"done\n"
            assert set(server.next_states(4)) == {States(idle=0, working=1)}
            other.release()
            assert other.end() == b"done\n"
        server.until_states(idle=1, working=0)


@pytest.mark.parametrize("worker", ["asgi", "uvicorn"])
def test_a_worker_works_as_long_as_a_websocket_is_open_and_that_is_no_request(
    tmp_path: Path, worker: str
) -> None:
    need("gunicorn", *NEEDS.get(worker, "").split(), "wsproto")
    with leading(f"{WORKERS[worker]} --workers 2", tmp_path) as server:
        with closing(websocket(server)):
            server.until_states(idle=1, working=1)
            assert set(server.next_states(3)) == {States(idle=1, working=1)}
        server.until_states(idle=2, working=0)
        assert server.end() == 0
    assert {line.value for line in server.lines.named("gunicorn.requests")} == {0}


def websocket(server: Master) -> socket.socket:
    """An open one, over which the application has sent something."""
    connection = server.connection()
    key = base64.b64encode(bytes(16)).decode()
    connection.sendall(
        "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
    )
    with connection.makefile("rb", buffering=0) as stream:
        assert stream.readline().split()[1] == b"101"
        while stream.readline().strip():
            pass
        assert stream.read(1) == b"\x82"
    return connection


def test_within_an_interval_a_worker_killed_in_a_request_is_forgotten(tmp_path: Path) -> None:
    need("gunicorn")
    with leading(f"{SYNC} --workers 2", tmp_path, **LONGER) as server:
        with server.request("/hold") as request:
            server.until_states(idle=1, working=1)
            psutil.Process(request.pid).kill()
            # What the master says next may have been on its way.
            _, *then = server.next_states(4)
        assert request.pid not in server.workers()
        assert set(then) == {States(idle=2, working=0)}


def test_the_dirty_arbiter_is_no_worker_though_the_agent_takes_it_for_one(tmp_path: Path) -> None:
    need("gunicorn", "setproctitle")
    options = f"{SYNC} --name shop --workers 2 --dirty-workers 1 --dirty-app dirty:Dirty"
    with leading(options, tmp_path) as server:
        server.until(lambda: "Spawned dirty worker" in server.stderr())
        server.until_states(idle=2, working=0)
        assert set(server.next_states(4)) == {States(idle=2, working=0)}
        server.until(lambda: as_the_agent_sees("shop") == States(idle=3, working=0))
        assert server.end() == 0
    assert {line.pid for line in server.lines.named("gunicorn.workers")} == {server.leader.pid}
    assert TROUBLE.findall(server.stderr()) == []


def test_workers_come_and_go_by_sigttin_and_sigttou(tmp_path: Path) -> None:
    need("gunicorn")
    with leading(f"{SYNC} --workers 2", tmp_path) as server:
        server.until_states(idle=2, working=0)
        server.leader.send_signal(signal.SIGTTIN)
        server.until_states(idle=3, working=0)
        server.leader.send_signal(signal.SIGTTOU)
        server.until_states(idle=2, working=0)
        assert set(server.next_states(3)) == {States(idle=2, working=0)}
        assert len(server.workers()) == 2


@pytest.mark.parametrize(("option", "name"), [("--name shop", "shop"), ("", "held:wsgi")])
def test_the_application_has_the_name_that_is_in_the_masters_title(
    tmp_path: Path, option: str, name: str
) -> None:
    need("gunicorn", "setproctitle")
    with leading(f"{SYNC} --workers 1 {option}", tmp_path) as server:
        server.until(lambda: bool(server.checks()) and bool(server.states()))
        assert title(server.leader) == f"gunicorn: master [{name}]"
    assert set(names(server)) == {name}


HOOKLESS = {
    "gevent_pywsgi": ("gevent_pywsgi", "gunicorn gevent packaging"),
    "tornado": ("tornado", "gunicorn tornado"),
}


@pytest.mark.parametrize("worker", HOOKLESS)
def test_workers_of_a_class_without_hooks_are_judged_by_cpu_time_and_one_line_says_so(
    tmp_path: Path, worker: str
) -> None:
    options, needs = HOOKLESS[worker]
    need(*needs.split())
    with leading(f"{OURS} --workers 2 --worker-class {options} held:wsgi", tmp_path) as server:
        server.until_states(idle=2, working=0)
        with server.connection() as connection:
            connection.sendall(b"GET /forever HTTP/1.1\r\nHost: localhost\r\n\r\n")
            server.until_states(idle=1, working=1)
    said = [line for line in server.stderr().splitlines() if "CPU" in line]
    assert len(said) == 1
    assert worker in said[0]
    assert TROUBLE.findall(server.stderr().replace(said[0], "")) == []


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_master_is_ok_while_it_serves_and_critical_once_when_it_ends(
    tmp_path: Path, by: signal.Signals
) -> None:
    need("gunicorn")
    with leading(f"{SYNC} --workers 2", tmp_path, **LONGER) as server:
        server.until_states(idle=2, working=0)
        server.until(lambda: len(server.checks()) >= 3)
        assert server.end(by) == 0
        *before, last = server.checks()
    assert (set(before), last) == ({0}, 2)
    assert server.states()[-1] == States(idle=0, working=0)
    checks = server.lines.named("gunicorn.is_running")
    assert {line.pid for line in checks} == {server.leader.pid}
    # A check that carried one would stay CRITICAL for ever, for an id that is gone.
    assert [line for line in checks if "runtime-id" in "".join(line.tags)] == []
    assert TROUBLE.findall(server.stderr()) == []


def test_nobody_says_that_a_killed_master_has_ended(tmp_path: Path) -> None:
    need("gunicorn")
    # Its workers notice after half this time.
    with leading(f"{SYNC} --workers 2 --timeout 4", tmp_path) as server:
        server.until(lambda: len(server.checks()) >= 2)
        assert server.end(signal.SIGKILL) == -signal.SIGKILL
    assert {line.values for line in server.lines.named("gunicorn.is_running")} == {(0,)}


def test_a_master_is_critical_as_long_as_it_has_no_workers(tmp_path: Path) -> None:
    need("gunicorn")
    config = tmp_path / "config.py"
    begin = "from runtime_metrics.gunicorn import *\nworker_class = 'sync'\n"
    config.write_text(f"{begin}workers = 1")
    with leading(f"--config {config} held:wsgi", tmp_path) as server:
        server.until_states(idle=1, working=0)
        config.write_text(f"{begin}workers = 0")
        server.leader.send_signal(signal.SIGHUP)
        server.until(lambda: server.checks()[-3:] == [2, 2, 2])
        assert server.states()[-1] == States(idle=0, working=0)
        server.leader.send_signal(signal.SIGTTIN)
        server.until(lambda: server.checks()[-1] == 0)
        assert server.states()[-1] == States(idle=1, working=0)


def test_a_master_whose_workers_cannot_boot_is_critical_once_when_it_gives_up(tmp_path: Path) -> None:
    need("gunicorn")
    options = f"{OURS} --worker-class sync --workers 1 no_such_module:wsgi"
    with leading(options, tmp_path, DD_RUNTIME_METRICS_INTERVAL="3600") as server:
        assert server.leader.wait(PATIENCE) == 3
        server.lines.stop()
    assert server.checks() == [2]


def test_a_master_that_fails_is_critical_when_it_ends_without_its_last_hook(tmp_path: Path) -> None:
    need("gunicorn")
    config = tmp_path / "config.py"
    config.write_text(
        "from runtime_metrics.gunicorn import *\n"
        "def child_exit(server, worker):\n    raise ValueError('it ends the master, with workers left')\n"
    )
    with leading(f"--config {config} --workers 3 held:wsgi", tmp_path) as server:
        server.until_states(idle=3, working=0)
        psutil.Process(server.ask()).kill()
        assert server.leader.wait(PATIENCE) == 1
        server.lines.stop()
    assert server.checks()[-1] == 2
    assert server.states()[-1] == States(idle=0, working=0)


def test_a_master_that_cannot_listen_says_nothing_of_another_that_may_serve(tmp_path: Path) -> None:
    need("gunicorn")
    options = f"{SYNC} --workers 1 --bind unix:{tmp_path}/no/such/folder"
    with leading(options, tmp_path) as server:
        assert server.leader.wait(PATIENCE) == 1
        server.lines.stop()
    assert (server.checks(), server.states()) == ([], [])


def test_a_master_that_has_to_kill_its_workers_says_at_its_end_that_there_are_none(tmp_path: Path) -> None:
    need("gunicorn")
    # So many that Master, which looks once after it has killed them, never sees all of them gone.
    options = f"{SYNC} --workers 8 --graceful-timeout 1"
    with leading(options, tmp_path) as server, ExitStack() as requests:
        held = {requests.enter_context(server.request("/hold")).pid for _ in range(8)}
        server.until_states(idle=0, working=8)
        assert server.end() == 0
        assert len(held) == 8
    assert server.states()[-1] == States(idle=0, working=0)
    assert server.checks()[-2:] == [0, 2]


def test_a_master_that_ends_while_another_serves_in_its_place_is_not_critical(tmp_path: Path) -> None:
    need("gunicorn")
    with leading(f"{SYNC} --workers 1 --name shop", tmp_path, **LONGER) as server:
        old = server.leader.pid
        server.until_states(idle=1, working=0)
        server.leader.send_signal(signal.SIGUSR2)
        server.until(lambda: len(masters(server)) == 2)
        (new,) = masters(server) - {old}
        assert server.next_states(2) == [States(idle=1, working=0)] * 2
        successor = psutil.Process(new)
        server.leader.terminate()
        assert server.leader.wait(PATIENCE) == 0
        server.leader = successor
        server.next_states(3)
        assert (set(server.checks(old)), set(server.checks(new))) == ({0}, {0})
        assert server.states(old)[-1] == States(idle=0, working=0)
        assert server.states(new)[-1] == States(idle=1, working=0)
        server.end()
        *before, last = server.checks(new)
    assert (set(before), last) == ({0}, 2)
    assert {line.tag("app") for line in server.lines.named("gunicorn.workers")} == {"shop"}
    assert len(identities(server)[old] | identities(server)[new]) == 2


def test_a_master_that_is_told_to_give_way_again_is_not_critical(tmp_path: Path) -> None:
    need("gunicorn")
    with leading(f"{SYNC} --workers 1", tmp_path) as server:
        server.until_states(idle=1, working=0)
        server.leader.send_signal(signal.SIGUSR2)
        server.until(lambda: len(masters(server)) == 2)
        (new,) = masters(server) - {server.leader.pid}
        server.until(lambda: server.states(new)[-1] == States(idle=1, working=0))
        successor = psutil.Process(new)
        successor.terminate()
        psutil.wait_procs([successor], PATIENCE)
        server.next_states(3)
        assert (set(server.checks()), set(server.checks(new))) == ({0}, {0})


def masters(server: Master) -> set[int]:
    """Those who have said something about their workers."""
    return {line.pid for line in server.lines.named("gunicorn.workers")}


def identities(server: Master) -> dict[int, set[str]]:
    """The runtime-ids that each process has sent, with anything but the service check."""
    seen: dict[int, set[str]] = {}
    for line in server.lines.named(""):
        if line.name != "gunicorn.is_running":
            seen.setdefault(line.pid, set()).add(line.tag("runtime-id"))
    return seen


@pytest.mark.parametrize("preload", ["", "--preload"])
def test_the_master_and_each_worker_report_themselves(tmp_path: Path, preload: str) -> None:
    need("gunicorn")
    with (
        leading(f"{SYNC} --workers 2 {preload}", tmp_path) as server,
        server.request("/grow/40") as one,
        server.request("/grow/90") as other,
    ):
        everybody = {server.leader.pid, one.pid, other.pid}
        # What is on its way may tell of how it was before.
        enough = {pid: len(sizes(server, pid)) + 2 for pid in everybody}
        server.until(lambda: all(len(sizes(server, pid)) >= enough[pid] for pid in everybody))
        said = {pid: sizes(server, pid)[-1] for pid in everybody}
        true = {pid: psutil.Process(pid).memory_info().rss for pid in everybody}
    assert said == pytest.approx(true, rel=0.05)
    # No process could have been taken for another.
    assert min(more / less for less, more in pairwise(sorted(said.values()))) > 1.3
    one_each = identities(server)
    assert one_each.keys() == everybody
    assert sorted(map(len, one_each.values())) == [1, 1, 1]
    assert len(set.union(*one_each.values())) == 3


def sizes(server: Master, pid: int) -> list[float]:
    """The sizes that a process has reported for itself, oldest first."""
    return [line.value for line in server.lines.named("runtime.python.mem.rss") if line.pid == pid]


def test_a_reload_gives_every_worker_another_identity_and_leaves_the_masters(tmp_path: Path) -> None:
    need("gunicorn")
    with leading(f"{SYNC} --workers 2", tmp_path) as server:
        server.until(lambda: len(identities(server)) == 3)
        before = identities(server)
        server.leader.send_signal(signal.SIGHUP)
        server.until(lambda: len(identities(server)) == 5)
        server.until_states(idle=2, working=0)
        assert server.workers().isdisjoint(before)
        with server.request("/hold"):
            server.until_states(idle=1, working=1)
        server.until_states(idle=2, working=0)
        assert set(server.checks()) == {0}
        assert server.end() == 0
    after = identities(server)
    assert {pid: after[pid] for pid in before} == before
    assert len(set.union(*after.values())) == 5
    assert TROUBLE.findall(server.stderr()) == []


def test_a_reload_can_give_the_application_another_name(tmp_path: Path) -> None:
    need("gunicorn")
    config = tmp_path / "config.py"
    begin = "from runtime_metrics.gunicorn import *\n"
    config.write_text(f"{begin}proc_name = 'shop'")
    with leading(f"--config {config} --workers 1 held:wsgi", tmp_path) as server:
        server.until(lambda: names(server)[-1:] == ["shop"])
        config.write_text(f"{begin}proc_name = 'market'")
        server.leader.send_signal(signal.SIGHUP)
        server.until(lambda: names(server)[-2:] == ["market", "market"])
    assert set(names(server)) == {"shop", "market"}


def names(server: Master) -> list[str]:
    """What the master has called the application, oldest first."""
    return [
        line.tag("app")
        for line in server.lines.named("gunicorn.")
        if line.name in ("gunicorn.workers", "gunicorn.is_running")
    ]


@pytest.mark.parametrize("preload", ["", "--preload"])
def test_recycled_workers_report_what_each_has_answered(tmp_path: Path, preload: str) -> None:
    need("gunicorn")
    options = f"{SYNC} --workers 2 --max-requests 5 {preload}"
    with leading(options, tmp_path) as server:
        answered = Counter(server.ask() for _ in range(33))
        assert server.end() == 0
    assert len(answered) >= 6
    reported: Counter[int] = Counter()
    for line in server.lines.named("gunicorn.requests"):
        reported[line.pid] += int(line.value)
    assert +reported == answered
    one_each = identities(server)
    assert len(set.union(*one_each.values())) == len(one_each)
    assert server.states()[-1] == States(idle=0, working=0)


ANOTHER = f"{SYNC} --workers 2 --preload --user nobody --group nogroup"


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that everybody can see; what pytest gives only its own user can."""
    with TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to become somebody else")
def test_workers_that_become_somebody_else_report_as_before(public: Path) -> None:
    need("gunicorn")
    # Preloaded, they need not see the interpreter's files any more.
    with leading(ANOTHER, public) as server:
        server.let_everybody_send()
        with server.request("/hold") as request:
            server.until_states(idle=1, working=1)
            server.until(lambda: identities(server).keys() >= {server.leader.pid, *server.workers()})
            assert psutil.Process(request.pid).username() == "nobody"
            assert psutil.Process(server.leader.pid).username() == "root"
            request.release()
            assert request.end() == b"done\n"
        server.until_states(idle=2, working=0)
        assert server.end() == 0
        assert TROUBLE.findall(server.stderr()) == []
    assert len(set.union(*identities(server).values())) == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to become somebody else")
def test_workers_that_may_not_send_any_more_say_so_once_and_are_seen_by_their_master(public: Path) -> None:
    need("gunicorn")
    with leading(ANOTHER, public) as server:
        server.until(lambda: server.stderr().count("Permission denied") == 2)
        with server.request("/hold") as request:
            server.until_states(idle=1, working=1)
            request.release()
            assert request.end() == b"done\n"
        server.until_states(idle=2, working=0)
        assert server.end() == 0
        assert server.stderr().count("Permission denied") == 2
        assert TROUBLE.findall(server.stderr()) == []
    assert identities(server).keys() == {server.leader.pid}
