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
from typing import TYPE_CHECKING, TypeVar

import psutil
import pytest
from holding import CLASSES, OURS, States, gunicorn
from serving import PATIENCE, TROUBLE, need

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

    from holding import Gunicorn

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="needs Linux, where a Unix socket tells which process has sent"
)

SYNC = f"--config {OURS} --worker-class sync"
MODE = "DD_RUNTIME_METRICS_GUNICORN_WORKER_STATE"


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


Seen = TypeVar("Seen")


def usual(seen: Iterable[Seen]) -> Seen:
    """What was seen most often: a process that waits uses some CPU time too, and the step is sometimes then."""
    ((most, _),) = Counter(seen).most_common(1)
    return most


@pytest.mark.parametrize(
    ("doing", "mode", "ours", "agents"),
    [
        ("/spin", "in_flight", States(idle=1, working=2), States(idle=1, working=2)),
        ("/spin", "cpu", States(idle=1, working=2), States(idle=1, working=2)),
        ("/hold", "in_flight", States(idle=1, working=2), States(idle=3, working=0)),
        ("/hold", "cpu", States(idle=3, working=0), States(idle=3, working=0)),
    ],
)
def test_two_of_three_workers_serve_and_the_agents_way_misses_those_that_wait(
    tmp_path: Path, doing: str, mode: str, ours: States, agents: States
) -> None:
    need("gunicorn", "setproctitle")
    settings = {MODE: mode, "DD_RUNTIME_METRICS_INTERVAL": "0.5"}
    with gunicorn(tmp_path, f"{SYNC} --workers 3 --name shop", "held:wsgi", **settings) as server:
        server.until_states(idle=3, working=0)
        with server.request(doing) as one, server.request(doing) as other:
            assert one.pid != other.pid
            assert usual(server.next_states(5)) == ours
            assert usual(as_the_agent_sees("shop") for _ in range(5)) == agents
            one.release()
            other.release()
        server.until_states(idle=3, working=0)
        assert server.end() == 0
    assert TROUBLE.findall(server.stderr()) == []


@pytest.mark.parametrize("worker", CLASSES)
def test_a_worker_works_from_a_requests_beginning_to_any_of_its_ends(tmp_path: Path, worker: str) -> None:
    options, application, needs = CLASSES[worker]
    need(*needs.split())
    with gunicorn(tmp_path, f"--config {OURS} --workers 2 --worker-class {options}", application) as server:
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


@pytest.mark.parametrize("worker", ["gthread", "gevent", "asgi", "UvicornWorker"])
def test_a_worker_works_until_the_last_of_its_requests_has_ended(tmp_path: Path, worker: str) -> None:
    options, application, needs = CLASSES[worker]
    need(*needs.split())
    with gunicorn(tmp_path, f"--config {OURS} --workers 1 --worker-class {options}", application) as server:
        with server.request("/hold") as one, server.request("/hold") as other:
            assert one.pid == other.pid
            server.until_states(idle=0, working=1)
            one.release()
            assert one.end() == b"done\n"
            assert set(server.next_states(4)) == {States(idle=0, working=1)}
            other.release()
            assert other.end() == b"done\n"
        server.until_states(idle=1, working=0)


@pytest.mark.parametrize("worker", ["asgi", "UvicornWorker"])
def test_a_worker_works_as_long_as_a_websocket_is_open_and_that_is_no_request(
    tmp_path: Path, worker: str
) -> None:
    options, application, needs = CLASSES[worker]
    need(*needs.split(), "wsproto")
    with gunicorn(tmp_path, f"--config {OURS} --workers 2 --worker-class {options}", application) as server:
        with closing(websocket(server)):
            server.until_states(idle=1, working=1)
            assert set(server.next_states(3)) == {States(idle=1, working=1)}
        server.until_states(idle=2, working=0)
        assert server.end() == 0
    assert {line.value for line in server.lines if line.name == "gunicorn.requests"} == {0}


def websocket(server: Gunicorn) -> socket.socket:
    """An open one, over which the application has sent something."""
    connection = server.connect()
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
    with gunicorn(tmp_path, f"{SYNC} --workers 2", "held:wsgi") as server:
        with server.request("/hold") as request:
            server.until_states(idle=1, working=1)
            psutil.Process(request.pid).kill()
            # What the master says next may have been on its way.
            _, *then = server.next_states(4)
        assert request.pid not in server.workers
        assert set(then) == {States(idle=2, working=0)}


def test_the_dirty_arbiter_is_no_worker_though_the_agent_takes_it_for_one(tmp_path: Path) -> None:
    need("gunicorn", "setproctitle")
    options = f"{SYNC} --name shop --workers 2 --dirty-workers 1 --dirty-app dirty:Dirty"
    with gunicorn(tmp_path, options, "held:wsgi") as server:
        server.until(lambda: "Spawned dirty worker" in server.stderr())
        server.until_states(idle=2, working=0)
        assert set(server.next_states(4)) == {States(idle=2, working=0)}
        assert usual(as_the_agent_sees("shop") for _ in range(5)) == States(idle=3, working=0)
        assert server.end() == 0
    assert {line.pid for line in server.lines if line.name == "gunicorn.workers"} == {server.process.pid}
    assert TROUBLE.findall(server.stderr()) == []


def test_workers_come_and_go_by_sigttin_and_sigttou(tmp_path: Path) -> None:
    need("gunicorn")
    with gunicorn(tmp_path, f"{SYNC} --workers 2", "held:wsgi") as server:
        server.until_states(idle=2, working=0)
        server.process.send_signal(signal.SIGTTIN)
        server.until_states(idle=3, working=0)
        server.process.send_signal(signal.SIGTTOU)
        server.until_states(idle=2, working=0)
        assert set(server.next_states(3)) == {States(idle=2, working=0)}
        assert len(server.workers) == 2


@pytest.mark.parametrize(("option", "name"), [("--name shop", "shop"), ("", "held:wsgi")])
def test_the_application_has_the_name_that_is_in_the_masters_title(
    tmp_path: Path, option: str, name: str
) -> None:
    need("gunicorn", "setproctitle")
    with gunicorn(tmp_path, f"{SYNC} --workers 1 {option}", "held:wsgi") as server:
        server.until(lambda: bool(server.checks()) and bool(server.states()))
        assert title(server.process) == f"gunicorn: master [{name}]"
    about_workers = [
        line for line in server.lines if line.name in ("gunicorn.workers", "gunicorn.is_running")
    ]
    assert {line.tag("app") for line in about_workers} == {name}


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
    with gunicorn(tmp_path, f"--config {OURS} --workers 2 --worker-class {options}", "held:wsgi") as server:
        server.until_states(idle=2, working=0)
        with server.connect() as connection:
            connection.sendall(b"GET /forever HTTP/1.1\r\nHost: localhost\r\n\r\n")
            server.until_states(idle=1, working=1)
            assert usual(server.next_states(5)) == States(idle=1, working=1)
    said = [line for line in server.stderr().splitlines() if "CPU" in line]
    assert len(said) == 1
    assert worker in said[0]
    assert TROUBLE.findall(server.stderr().replace(said[0], "")) == []


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_master_is_ok_while_it_serves_and_critical_once_when_it_ends(
    tmp_path: Path, by: signal.Signals
) -> None:
    need("gunicorn")
    with gunicorn(tmp_path, f"{SYNC} --workers 2", "held:wsgi") as server:
        server.until_states(idle=2, working=0)
        server.until(lambda: len(server.checks()) >= 3)
        assert server.end(by) == 0
        *before, last = server.checks()
    assert (set(before), last) == ({0}, 2)
    assert server.states()[-1] == States(idle=0, working=0)
    checks = [line for line in server.lines if line.name == "gunicorn.is_running"]
    assert {line.pid for line in checks} == {server.process.pid}
    # A check that carried one would stay CRITICAL for ever, for an id that is gone.
    assert [line for line in checks if "runtime-id" in "".join(line.tags)] == []
    assert TROUBLE.findall(server.stderr()) == []


def test_nobody_says_that_a_killed_master_has_ended(tmp_path: Path) -> None:
    need("gunicorn")
    # Its workers notice after half this time.
    with gunicorn(tmp_path, f"{SYNC} --workers 2 --timeout 4", "held:wsgi") as server:
        server.until(lambda: len(server.checks()) >= 2)
        assert server.end(signal.SIGKILL) == -signal.SIGKILL
    assert {line.values for line in server.lines if line.name == "gunicorn.is_running"} == {(0,)}


def test_a_master_is_critical_as_long_as_it_has_no_workers(tmp_path: Path) -> None:
    need("gunicorn")
    config = tmp_path / "config.py"
    begin = "from runtime_metrics.gunicorn import *\nworker_class = 'sync'\n"
    config.write_text(f"{begin}workers = 1")
    with gunicorn(tmp_path, f"--config {config}", "held:wsgi") as server:
        server.until_states(idle=1, working=0)
        config.write_text(f"{begin}workers = 0")
        server.process.send_signal(signal.SIGHUP)
        server.until(lambda: server.checks()[-3:] == [2, 2, 2])
        assert server.states()[-1] == States(idle=0, working=0)
        server.process.send_signal(signal.SIGTTIN)
        server.until(lambda: server.checks()[-1] == 0)
        assert server.states()[-1] == States(idle=1, working=0)


# With more than one of them, Gunicorn may come across the second when it is ending because of the first.
@pytest.mark.parametrize("workers", [1, 4])
def test_a_server_whose_workers_cannot_boot_is_critical_once_when_it_gives_up(
    tmp_path: Path, workers: int
) -> None:
    need("gunicorn")
    with gunicorn(tmp_path, f"{SYNC} --workers {workers}", "no_such_module:wsgi") as server:
        assert server.process.wait(PATIENCE) in ((3,) if workers == 1 else (1, 3))
        server.packets.stop()
    assert [check for check in server.checks() if check] == [2]


def test_a_master_that_cannot_listen_says_nothing_of_another_that_may_serve(tmp_path: Path) -> None:
    need("gunicorn")
    options = f"{SYNC} --workers 1 --bind unix:{tmp_path}/no/such/folder"
    with gunicorn(tmp_path, options, "held:wsgi") as server:
        assert server.process.wait(PATIENCE) == 1
        server.packets.stop()
    assert (server.checks(), server.states()) == ([], [])


def test_a_master_that_has_to_kill_its_workers_says_at_its_end_that_there_are_none(tmp_path: Path) -> None:
    need("gunicorn")
    # So many that Gunicorn, which looks once after it has killed them, never sees all of them gone.
    options = f"{SYNC} --workers 8 --graceful-timeout 1"
    with gunicorn(tmp_path, options, "held:wsgi") as server, ExitStack() as requests:
        held = {requests.enter_context(server.request("/hold")).pid for _ in range(8)}
        server.until_states(idle=0, working=8)
        assert server.end() == 0
        assert len(held) == 8
    assert server.states()[-1] == States(idle=0, working=0)
    assert server.checks()[-2:] == [0, 2]


def test_a_master_that_ends_while_another_serves_in_its_place_is_not_critical(tmp_path: Path) -> None:
    need("gunicorn")
    with gunicorn(tmp_path, f"{SYNC} --workers 1 --name shop", "held:wsgi") as server:
        old = server.process.pid
        server.until_states(idle=1, working=0)
        server.process.send_signal(signal.SIGUSR2)
        server.until(lambda: len(masters(server)) == 2)
        (new,) = masters(server) - {old}
        assert server.next_states(2) == [States(idle=1, working=0)] * 2
        successor = psutil.Process(new)
        server.process.terminate()
        assert server.process.wait(PATIENCE) == 0
        server.process = successor
        server.next_states(3)
        assert (set(server.checks(old)), set(server.checks(new))) == ({0}, {0})
        assert server.states(old)[-1] == States(idle=0, working=0)
        assert server.states(new)[-1] == States(idle=1, working=0)
        server.end()
        *before, last = server.checks(new)
    assert (set(before), last) == ({0}, 2)
    assert {line.tag("app") for line in server.lines if line.name == "gunicorn.workers"} == {"shop"}
    assert len(identities(server)[old] | identities(server)[new]) == 2


def test_a_master_that_is_told_to_give_way_again_is_not_critical(tmp_path: Path) -> None:
    need("gunicorn")
    with gunicorn(tmp_path, f"{SYNC} --workers 1", "held:wsgi") as server:
        server.until_states(idle=1, working=0)
        server.process.send_signal(signal.SIGUSR2)
        server.until(lambda: len(masters(server)) == 2)
        (new,) = masters(server) - {server.process.pid}
        server.until(lambda: server.states(new)[-1] == States(idle=1, working=0))
        successor = psutil.Process(new)
        successor.terminate()
        psutil.wait_procs([successor], PATIENCE)
        server.next_states(3)
        assert (set(server.checks()), set(server.checks(new))) == ({0}, {0})


def masters(server: Gunicorn) -> set[int]:
    """Those who have said something about their workers."""
    return {line.pid for line in server.lines if line.name == "gunicorn.workers"}


def identities(server: Gunicorn) -> dict[int, set[str]]:
    """The runtime-ids that each process has sent, with anything but the service check."""
    seen: dict[int, set[str]] = {}
    for line in server.lines:
        if line.name != "gunicorn.is_running":
            seen.setdefault(line.pid, set()).add(line.tag("runtime-id"))
    return seen


@pytest.mark.parametrize("preload", ["", "--preload"])
def test_the_master_and_each_worker_report_themselves(tmp_path: Path, preload: str) -> None:
    need("gunicorn")
    with (
        gunicorn(tmp_path, f"{SYNC} --workers 2 {preload}", "held:wsgi") as server,
        server.request("/grow/40") as one,
        server.request("/grow/90") as other,
    ):
        everybody = {server.process.pid, one.pid, other.pid}
        server.until(lambda: all(len(sizes(server, pid)) >= 2 for pid in everybody))
        said, true = zip(*(sizes(server, pid)[-1] for pid in sorted(everybody)), strict=True)
    assert said == pytest.approx(true, rel=0.05)
    # No process could have been taken for another.
    assert min(more / less for less, more in pairwise(sorted(said))) > 1.3
    one_each = identities(server)
    assert one_each.keys() == everybody
    assert sorted(map(len, one_each.values())) == [1, 1, 1]
    assert len(set.union(*one_each.values())) == 3


def sizes(server: Gunicorn, pid: int) -> list[tuple[float, float]]:
    """The size that a process has reported for itself, and the kernel's word at that moment."""
    return [
        (line.value, packet.resident)
        for packet in list(server.packets)
        for line in packet.lines
        if packet.pid == pid and line.name == "runtime.python.mem.rss" and packet.resident
    ]


def test_a_reload_gives_every_worker_another_identity_and_leaves_the_masters(tmp_path: Path) -> None:
    need("gunicorn")
    with gunicorn(tmp_path, f"{SYNC} --workers 2", "held:wsgi") as server:
        server.until(lambda: len(identities(server)) == 3)
        before = identities(server)
        server.process.send_signal(signal.SIGHUP)
        server.until(lambda: len(identities(server)) == 5)
        server.until_states(idle=2, working=0)
        assert server.workers.isdisjoint(before)
        assert server.end() == 0
    after = identities(server)
    assert {pid: after[pid] for pid in before} == before
    assert len(set.union(*after.values())) == 5
    assert server.checks().count(2) == 1
    assert TROUBLE.findall(server.stderr()) == []


@pytest.mark.parametrize("preload", ["", "--preload"])
def test_recycled_workers_report_what_each_has_answered(tmp_path: Path, preload: str) -> None:
    need("gunicorn")
    options = f"{SYNC} --workers 2 --max-requests 5 {preload}"
    with gunicorn(tmp_path, options, "held:wsgi") as server:
        answered = Counter(server.ask() for _ in range(33))
        assert server.end() == 0
    assert len(answered) >= 6
    reported: Counter[int] = Counter()
    for line in server.lines:
        if line.name == "gunicorn.requests":
            reported[line.pid] += int(line.value)
    assert +reported == answered
    one_each = identities(server)
    assert len(set.union(*one_each.values())) == len(one_each)
    assert server.states()[-1] == States(idle=0, working=0)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to become somebody else")
def test_workers_that_become_somebody_else_report_as_before() -> None:
    need("gunicorn")
    # They need not be able to see the interpreter's files any more, nor the folders of other tests.
    with (
        TemporaryDirectory() as name,
        gunicorn(
            Path(name), f"{SYNC} --workers 2 --preload --user nobody --group nogroup", "held:wsgi"
        ) as server,
    ):
        server.open_to_everybody()
        with server.request("/hold") as request:
            server.until_states(idle=1, working=1)
            server.until(lambda: identities(server).keys() >= {server.process.pid, *server.workers})
            assert psutil.Process(request.pid).username() == "nobody"
            assert psutil.Process(server.process.pid).username() == "root"
            request.release()
            assert request.end() == b"done\n"
        server.until_states(idle=2, working=0)
        assert server.end() == 0
        assert TROUBLE.findall(server.stderr()) == []
    assert len(set.union(*identities(server).values())) == 3
