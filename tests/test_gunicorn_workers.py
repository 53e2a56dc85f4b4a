"""What Gunicorn's master reports about its workers: how many there are, their states, and whether it serves at all."""

from __future__ import annotations

import base64
import os
import re
import signal
import socket
import subprocess
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
from catalogue_names import also_at_standard, checks
from gunicorns import CLASSES, NEEDS, OURS
from masters import States, running_master
from serving import OUR_ERRORS, SERVERS, TIMEOUT, need

if TYPE_CHECKING:
    from collections.abc import Iterator

    from masters import Master

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(
        sys.platform != "linux", reason="needs Linux, where a Unix socket identifies the sender"
    ),
]

WORKERS = {
    worker: f"{OURS} {options} held:{application}" for worker, (options, application) in CLASSES.items()
}
SYNC = WORKERS["sync"]

# An interval that is long compared with the time in which Gunicorn replaces a worker.
LONGER = {"DD_RUNTIME_METRICS_INTERVAL": "0.5"}


def as_the_agent_sees(name: str) -> States:
    """The result of the Datadog Agent's check: a child of the master works if its CPU time changes in 0.1 s."""
    (master,) = [
        process for process in psutil.Process().children() if title(process) == f"gunicorn: master [{name}]"
    ]
    before = {child.pid: cpu_time(child) for child in master.children()}
    time.sleep(0.1)
    changed = [cpu_time(psutil.Process(pid)) != seconds for pid, seconds in before.items()]
    return States(idle=changed.count(False), working=changed.count(True))


def title(process: psutil.Process) -> str:
    """The title of a process."""
    return process.cmdline()[0]


def cpu_time(process: psutil.Process) -> float:
    """Seconds, in steps of 10 ms."""
    times = process.cpu_times()
    return float(times.user + times.system)


@checks("gunicorn.workers")
@pytest.mark.parametrize(
    ("doing", "agents"),
    [("/spin", States(idle=1, working=2)), ("/hold", States(idle=3, working=0))],
)
def test_workers_in_requests_are_working_though_the_agents_check_misses_those_that_wait(
    tmp_path: Path, doing: str, agents: States
) -> None:
    need("gunicorn", "setproctitle")
    with running_master(f"{SYNC} --workers 3 --name shop", tmp_path) as server:
        server.until_states(idle=3, working=0)
        with server.request(doing) as one, server.request(doing) as other:
            assert one.pid != other.pid
            server.until_states(idle=1, working=2)
            # On a busy machine, a process may not run at all during the 0.1 s of the check.
            server.until(lambda: as_the_agent_sees("shop") == agents)
            assert set(server.next_states(5)) == {States(idle=1, working=2)}
            one.release()
            other.release()
        server.until_states(idle=3, working=0)
        assert server.end() == 0
    assert OUR_ERRORS.findall(server.stderr()) == []


@pytest.mark.parametrize(
    ("doing", "seen"), [("/spin", States(idle=1, working=2)), ("/hold", States(idle=3, working=0))]
)
def test_by_cpu_time_only_spinning_workers_are_working_as_in_the_agents_check(
    tmp_path: Path, doing: str, seen: States
) -> None:
    need("gunicorn", "setproctitle")
    settings = LONGER | {"DD_RUNTIME_METRICS_GUNICORN_WORKER_STATE": "cpu"}
    with running_master(f"{SYNC} --workers 3 --name shop", tmp_path, **settings) as server:
        server.until_states(idle=3, working=0)
        with server.request(doing) as one, server.request(doing) as other:
            assert one.pid != other.pid
            # The next report may have been under way already.
            server.next_states(1)
            server.until(lambda: server.next_states(3) == [seen] * 3)
            server.until(lambda: as_the_agent_sees("shop") == seen)
        server.until_states(idle=3, working=0)
        assert server.end() == 0
    assert OUR_ERRORS.findall(server.stderr()) == []


@pytest.mark.parametrize("worker", CLASSES)
def test_a_worker_is_working_from_the_start_of_a_request_until_it_ends_in_any_way(
    tmp_path: Path, worker: str
) -> None:
    need("gunicorn", *NEEDS.get(worker, "").split())
    with running_master(f"{WORKERS[worker]} --workers 2", tmp_path) as server:
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
            # The client closes the connection.
        server.until_states(idle=2, working=0)
        assert set(server.next_states(2)) == {States(idle=2, working=0)}


@pytest.mark.parametrize("worker", ["gthread", "gevent", "asgi", "uvicorn"])
def test_a_worker_is_working_until_the_last_of_its_requests_has_ended(tmp_path: Path, worker: str) -> None:
    need("gunicorn", *NEEDS.get(worker, "").split())
    with running_master(f"{WORKERS[worker]} --workers 1", tmp_path) as server:
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
def test_a_worker_with_an_open_websocket_is_working_and_counts_no_request(
    tmp_path: Path, worker: str
) -> None:
    need("gunicorn", *NEEDS.get(worker, "").split(), "wsproto")
    with running_master(f"{WORKERS[worker]} --workers 2", tmp_path) as server:
        with closing(websocket(server)):
            server.until_states(idle=1, working=1)
            assert set(server.next_states(3)) == {States(idle=1, working=1)}
        server.until_states(idle=2, working=0)
        assert server.end() == 0
    assert {line.value for line in server.lines.named("gunicorn.requests")} == {0}


def websocket(server: Master) -> socket.socket:
    """An open websocket, over which the application has sent something."""
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


@pytest.mark.measures
def test_within_an_interval_a_worker_killed_in_a_request_is_forgotten(tmp_path: Path) -> None:
    need("gunicorn")
    with running_master(f"{SYNC} --workers 2", tmp_path, **LONGER) as server:
        with server.request("/hold") as request:
            server.until_states(idle=1, working=1)
            psutil.Process(request.pid).kill()
            # The next report may have been under way already.
            _, *then = server.next_states(4)
        assert request.pid not in server.workers()
        assert set(then) == {States(idle=2, working=0)}


def test_the_dirty_arbiter_is_not_counted_though_the_agent_counts_it(tmp_path: Path) -> None:
    need("gunicorn", "setproctitle")
    options = f"{SYNC} --name shop --workers 2 --dirty-workers 1 --dirty-app dirty:Dirty"
    with running_master(options, tmp_path) as server:
        server.until(lambda: "Spawned dirty worker" in server.stderr())
        server.until_states(idle=2, working=0)
        assert set(server.next_states(4)) == {States(idle=2, working=0)}
        server.until(lambda: as_the_agent_sees("shop") == States(idle=3, working=0))
        assert server.end() == 0
    assert {line.pid for line in server.lines.named("gunicorn.workers")} == {server.master.pid}
    assert OUR_ERRORS.findall(server.stderr()) == []


def test_sigttin_and_sigttou_change_the_number_of_workers(tmp_path: Path) -> None:
    need("gunicorn")
    with running_master(f"{SYNC} --workers 2", tmp_path) as server:
        server.until_states(idle=2, working=0)
        server.master.send_signal(signal.SIGTTIN)
        server.until_states(idle=3, working=0)
        server.master.send_signal(signal.SIGTTOU)
        server.until_states(idle=2, working=0)
        assert set(server.next_states(3)) == {States(idle=2, working=0)}
        assert len(server.workers()) == 2


@checks("gunicorn.backlog")
def test_the_backlog_is_the_kernels_count_of_connections_that_wait_for_a_worker(tmp_path: Path) -> None:
    need("gunicorn")
    with (
        running_master(f"{SYNC} --workers 1 --bind 127.0.0.1:0", tmp_path) as server,
        server.request("/hold"),
        ExitStack() as clients,
    ):
        (port,) = map(int, re.findall(r"http://127\.0\.0\.1:(\d+)", server.stderr()))
        for _ in range(3):
            clients.enter_context(socket.create_connection(("127.0.0.1", port), TIMEOUT))
        server.until(lambda: accept_queue(port) == 3)
        server.until(lambda: [line.value for line in server.lines.named("gunicorn.backlog")][-1:] == [3])


@pytest.mark.parametrize("excluded", ["", "gunicorn.backlog"])
def test_a_connection_is_counted_in_the_backlog_or_in_the_accept_queue_and_never_in_both(
    tmp_path: Path, excluded: str
) -> None:
    need("gunicorn")
    variables = {"DD_RUNTIME_METRICS_LEVEL": "standard", "DD_RUNTIME_METRICS_EXCLUDE": excluded}
    options = f"{SYNC} --workers 1 --bind 127.0.0.1:0"
    with (
        running_master(options, tmp_path, **variables) as server,
        server.request("/hold"),
        ExitStack() as clients,
    ):

        def last(name: str) -> list[float]:
            """The last values that each process has sent."""
            return list({line.pid: line.value for line in server.lines.named(name)}.values())

        (port,) = map(int, re.findall(r"http://127\.0\.0\.1:(\d+)", server.stderr()))
        for _ in range(3):
            clients.enter_context(socket.create_connection(("127.0.0.1", port), TIMEOUT))
        server.until(lambda: accept_queue(port) == 3)
        if excluded:
            # Master and worker have the same listeners.
            server.until(lambda: last("runtime.python.accept_queue.depth") == [3, 3])
            assert last("gunicorn.backlog") == []
        else:
            server.until(lambda: last("gunicorn.backlog") == [3])
            # The Unix socket is not in Gunicorn's backlog.
            clients.enter_context(closing(server.connection()))
            server.until(lambda: last("runtime.python.accept_queue.depth") == [1, 1])
            assert {line.value for line in server.lines.named("runtime.python.accept_queue")} == {0, 1}


def accept_queue(port: int) -> int:
    """How many connections to a listener on this host no process has accepted yet."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    (queues,) = [row[4] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "0A"]
    return int(queues.partition(":")[2], 16)


@pytest.mark.parametrize(("option", "name"), [("--name shop", "shop"), ("", "held:wsgi")])
def test_the_app_tag_is_the_name_in_the_masters_title(tmp_path: Path, option: str, name: str) -> None:
    need("gunicorn", "setproctitle")
    with running_master(f"{SYNC} --workers 1 {option}", tmp_path) as server:
        server.until(lambda: bool(server.checks()) and bool(server.states()))
        assert title(server.master) == f"gunicorn: master [{name}]"
    assert set(names(server)) == {name}


HOOKLESS = {
    "gevent_pywsgi": ("gevent_pywsgi", "gunicorn gevent packaging"),
    "tornado": ("tornado", "gunicorn tornado"),
}


@pytest.mark.parametrize("worker", HOOKLESS)
def test_workers_of_a_class_without_hooks_are_counted_by_cpu_time_and_one_line_is_logged(
    tmp_path: Path, worker: str
) -> None:
    options, needs = HOOKLESS[worker]
    need(*needs.split())
    with running_master(f"{OURS} --workers 2 --worker-class {options} held:wsgi", tmp_path) as server:
        server.until_states(idle=2, working=0)
        with server.connection() as connection:
            connection.sendall(b"GET /forever HTTP/1.1\r\nHost: localhost\r\n\r\n")
            server.until_states(idle=1, working=1)
    lines = [line for line in server.stderr().splitlines() if "CPU" in line]
    assert len(lines) == 1
    assert worker in lines[0]
    assert OUR_ERRORS.findall(server.stderr().replace(lines[0], "")) == []


@checks("gunicorn.is_running")
@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_master_is_ok_while_it_serves_and_critical_once_when_it_ends(
    tmp_path: Path, by: signal.Signals
) -> None:
    need("gunicorn")
    with running_master(f"{SYNC} --workers 2", tmp_path, **LONGER) as server:
        server.until_states(idle=2, working=0)
        server.until(lambda: len(server.checks()) >= 3)
        assert server.end(by) == 0
        *before, last = server.checks()
    assert (set(before), last) == ({0}, 2)
    assert server.states()[-1] == States(idle=0, working=0)
    checks = server.lines.named("gunicorn.is_running")
    assert {line.pid for line in checks} == {server.master.pid}
    # A check with a runtime-id would stay CRITICAL for ever, as no other process has that id.
    assert [line for line in checks if "runtime-id" in "".join(line.tags)] == []
    assert OUR_ERRORS.findall(server.stderr()) == []


def test_a_killed_master_is_never_critical(tmp_path: Path) -> None:
    need("gunicorn")
    # Its workers notice after half the timeout.
    with running_master(f"{SYNC} --workers 2 --timeout 4", tmp_path) as server:
        server.until(lambda: len(server.checks()) >= 2)
        assert server.end(signal.SIGKILL) == -signal.SIGKILL
    assert {line.values for line in server.lines.named("gunicorn.is_running")} == {(0,)}


def test_a_master_is_critical_as_long_as_it_has_no_workers(tmp_path: Path) -> None:
    need("gunicorn")
    config = tmp_path / "config.py"
    begin = "from runtime_metrics.gunicorn import *\nworker_class = 'sync'\n"
    config.write_text(f"{begin}workers = 1")
    with running_master(f"--config {config} held:wsgi", tmp_path) as server:
        server.until_states(idle=1, working=0)
        config.write_text(f"{begin}workers = 0")
        server.master.send_signal(signal.SIGHUP)
        server.until(lambda: server.checks()[-3:] == [2, 2, 2])
        assert server.states()[-1] == States(idle=0, working=0)
        server.master.send_signal(signal.SIGTTIN)
        server.until(lambda: server.checks()[-1] == 0)
        assert server.states()[-1] == States(idle=1, working=0)


def test_a_master_whose_workers_cannot_boot_is_critical_once_when_it_gives_up(tmp_path: Path) -> None:
    need("gunicorn")
    options = f"{OURS} --worker-class sync --workers 1 no_such_module:wsgi"
    with running_master(options, tmp_path, DD_RUNTIME_METRICS_INTERVAL="3600") as server:
        assert server.master.wait(TIMEOUT) == 3
        server.lines.stop()
    assert server.checks() == [2]


def test_a_master_that_fails_is_critical_when_it_ends_without_its_last_hook(tmp_path: Path) -> None:
    need("gunicorn")
    config = tmp_path / "config.py"
    config.write_text(
        "from runtime_metrics.gunicorn import *\n"
        "def child_exit(server, worker):\n    raise ValueError('it ends the master, with workers left')\n"
    )
    with running_master(f"--config {config} --workers 3 held:wsgi", tmp_path) as server:
        server.until_states(idle=3, working=0)
        psutil.Process(server.ask()).kill()
        assert server.master.wait(TIMEOUT) == 1
        server.lines.stop()
    assert server.checks()[-1] == 2
    assert server.states()[-1] == States(idle=0, working=0)


def test_a_master_that_cannot_listen_sends_nothing(tmp_path: Path) -> None:
    need("gunicorn")
    options = f"{SYNC} --workers 1 --bind unix:{tmp_path}/no/such/folder"
    with running_master(options, tmp_path) as server:
        assert server.master.wait(TIMEOUT) == 1
        server.lines.stop()
    assert (server.checks(), server.states()) == ([], [])


def test_a_master_that_has_to_kill_its_workers_reports_none_at_its_end(tmp_path: Path) -> None:
    need("gunicorn")
    # With so many, the master, which counts them once after killing them, always finds some left.
    options = f"{SYNC} --workers 8 --graceful-timeout 1"
    with running_master(options, tmp_path) as server, ExitStack() as requests:
        held = {requests.enter_context(server.request("/hold")).pid for _ in range(8)}
        server.until_states(idle=0, working=8)
        assert server.end() == 0
        assert len(held) == 8
    assert server.states()[-1] == States(idle=0, working=0)
    assert server.checks()[-2:] == [0, 2]


def test_a_master_that_ends_while_another_serves_in_its_place_is_not_critical(tmp_path: Path) -> None:
    need("gunicorn")
    with running_master(f"{SYNC} --workers 1 --name shop", tmp_path, **LONGER) as server:
        old = server.master.pid
        server.until_states(idle=1, working=0)
        server.master.send_signal(signal.SIGUSR2)
        server.until(lambda: len(masters(server)) == 2)
        (new,) = masters(server) - {old}
        assert server.next_states(2) == [States(idle=1, working=0)] * 2
        successor = psutil.Process(new)
        server.master.terminate()
        assert server.master.wait(TIMEOUT) == 0
        server.master = successor
        server.next_states(3)
        assert (set(server.checks(old)), set(server.checks(new))) == ({0}, {0})
        assert server.states(old)[-1] == States(idle=0, working=0)
        assert server.states(new)[-1] == States(idle=1, working=0)
        server.end()
        *before, last = server.checks(new)
    assert (set(before), last) == ({0}, 2)
    assert {line.tag("app") for line in server.lines.named("gunicorn.workers")} == {"shop"}
    assert len(identities(server)[old] | identities(server)[new]) == 2


def test_a_master_whose_successor_ends_is_not_critical(tmp_path: Path) -> None:
    need("gunicorn")
    with running_master(f"{SYNC} --workers 1", tmp_path) as server:
        server.until_states(idle=1, working=0)
        server.master.send_signal(signal.SIGUSR2)
        server.until(lambda: len(masters(server)) == 2)
        (new,) = masters(server) - {server.master.pid}
        server.until(lambda: server.states(new)[-1] == States(idle=1, working=0))
        successor = psutil.Process(new)
        successor.terminate()
        psutil.wait_procs([successor], TIMEOUT)
        server.next_states(3)
        assert (set(server.checks()), set(server.checks(new))) == ({0}, {0})


def masters(server: Master) -> set[int]:
    """The masters that have reported about their workers."""
    return {line.pid for line in server.lines.named("gunicorn.workers")}


def identities(server: Master) -> dict[int, set[str]]:
    """The runtime-ids that each process has sent, except with the service check."""
    seen: dict[int, set[str]] = {}
    for line in server.lines.named(""):
        if line.name != "gunicorn.is_running":
            seen.setdefault(line.pid, set()).add(line.tag("runtime-id"))
    return seen


@also_at_standard("preload", ["", "--preload"], "--preload")
def test_the_master_and_each_worker_report_themselves(tmp_path: Path, preload: str) -> None:
    need("gunicorn")
    with (
        running_master(f"{SYNC} --workers 2 {preload}", tmp_path) as server,
        server.request("/grow/40") as one,
        server.request("/grow/90") as other,
    ):
        pids = {server.master.pid, one.pid, other.pid}
        # A report that was under way may have an older value.
        enough = {pid: len(sizes(server, pid)) + 2 for pid in pids}
        server.until(lambda: all(len(sizes(server, pid)) >= enough[pid] for pid in pids))
        reported = {pid: sizes(server, pid)[-1] for pid in pids}
        true = {pid: psutil.Process(pid).memory_info().rss for pid in pids}
    assert reported == pytest.approx(true, rel=0.05)
    # The sizes differ enough to distinguish the processes.
    assert min(more / less for less, more in pairwise(sorted(reported.values()))) > 1.3
    one_each = identities(server)
    assert one_each.keys() == pids
    assert sorted(map(len, one_each.values())) == [1, 1, 1]
    assert len(set.union(*one_each.values())) == 3


def sizes(server: Master, pid: int) -> list[float]:
    """The resident sizes that a process has reported, oldest first."""
    return [line.value for line in server.lines.of("runtime.python.mem.rss") if line.pid == pid]


def test_a_reload_gives_every_worker_a_new_identity_and_keeps_the_masters(tmp_path: Path) -> None:
    need("gunicorn")
    with running_master(f"{SYNC} --workers 2", tmp_path) as server:
        server.until(lambda: len(identities(server)) == 3)
        before = identities(server)
        server.master.send_signal(signal.SIGHUP)
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
    assert OUR_ERRORS.findall(server.stderr()) == []


def test_a_reload_can_rename_the_application(tmp_path: Path) -> None:
    need("gunicorn")
    config = tmp_path / "config.py"
    begin = "from runtime_metrics.gunicorn import *\n"
    config.write_text(f"{begin}proc_name = 'shop'")
    with running_master(f"--config {config} --workers 1 held:wsgi", tmp_path) as server:
        server.until(lambda: names(server)[-1:] == ["shop"])
        config.write_text(f"{begin}proc_name = 'market'")
        server.master.send_signal(signal.SIGHUP)
        server.until(lambda: names(server)[-2:] == ["market", "market"])
    assert set(names(server)) == {"shop", "market"}


def names(server: Master) -> list[str]:
    """The names of the application in the reports of the master, oldest first."""
    return [
        line.tag("app")
        for line in server.lines.named("gunicorn.")
        if line.name in ("gunicorn.workers", "gunicorn.is_running")
    ]


@pytest.mark.parametrize("preload", ["", "--preload"])
def test_recycled_workers_each_report_their_requests(tmp_path: Path, preload: str) -> None:
    need("gunicorn")
    options = f"{SYNC} --workers 2 --max-requests 5 {preload}"
    with running_master(options, tmp_path) as server:
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
    """A folder that every user can enter, unlike those of pytest."""
    # Python's library may be in a folder of root, and Gunicorn imports a part of it after it has switched user.
    program = (
        "import os, pwd, random; user = pwd.getpwnam('nobody'); os.setgid(user.pw_gid); os.setuid(user.pw_uid)"
        "; random.seed(b'')"
    )
    tried = subprocess.run([SERVERS / "bin" / "python", "-c", program], capture_output=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"the user nobody cannot use this interpreter: {tried.stderr.decode().strip()[-200:]}")
    with TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to switch user")
def test_workers_that_switch_user_report_as_before(public: Path) -> None:
    need("gunicorn")
    # Preloaded workers need no more files of the interpreter.
    with running_master(ANOTHER, public) as server:
        server.let_other_users_send()
        with server.request("/hold") as request:
            server.until_states(idle=1, working=1)
            server.until(lambda: identities(server).keys() >= {server.master.pid, *server.workers()})
            assert psutil.Process(request.pid).username() == "nobody"
            assert psutil.Process(server.master.pid).username() == "root"
            request.release()
            assert request.end() == b"done\n"
        server.until_states(idle=2, working=0)
        assert server.end() == 0
        assert OUR_ERRORS.findall(server.stderr()) == []
    assert len(set.union(*identities(server).values())) == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to switch user")
def test_workers_that_may_not_send_any_more_warn_once_and_their_master_counts_them(public: Path) -> None:
    need("gunicorn")
    with running_master(ANOTHER, public) as server:
        server.until(lambda: server.stderr().count("Permission denied") == 2)
        with server.request("/hold") as request:
            server.until_states(idle=1, working=1)
            request.release()
            assert request.end() == b"done\n"
        server.until_states(idle=2, working=0)
        assert server.end() == 0
        assert server.stderr().count("Permission denied") == 2
        assert OUR_ERRORS.findall(server.stderr()) == []
    assert identities(server).keys() == {server.master.pid}
