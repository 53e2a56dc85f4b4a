"""A user's configuration of Gunicorn with our hooks in it: each of the user's hooks is called as without ours."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
from collections import Counter, defaultdict
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from gunicorns import (
    CLASSES,
    NEEDS,
    OURS,
    PAGES,
    TWO_LENGTHS,
    Gunicorn,
    Lines,
    ask,
    gunicorn,
    request,
    send_bytes,
    side_by_side,
    starting,
)
from ports import DISCARD_URL
from serving import SERVERS, TIMEOUT, need

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(
        sys.platform != "linux", reason="needs Linux, where a Unix socket identifies the sender"
    ),
]

PLAIN = "--config hooks_conf.py --worker-class sync scripted:wsgi"

# Encryption without a certificate, so that there is no key to keep: Gunicorn needs a file that the user's hook does not
# read.
ENCRYPTED = "--certfile scripted.py"
CIPHERS = "AECDH-AES128-SHA:@SECLEVEL=0"


PROGRAMS = Path(__file__).parent / "programs"


# Our hooks are installed after the user's, or before, by a star import of which the user overrides all but one.
NEVER = {"INSTALLED": "never"}
WAYS = {
    "last": {"INSTALLED": "last"},
    **{
        f"first, without {omitted}": {"INSTALLED": "first", "OMITTED": omitted}
        for omitted in ("nworkers_changed", "on_starting", "when_ready", "pre_fork")
    },
}


class Call(NamedTuple):
    """A call of a hook."""

    pid: int
    hook: str
    arguments: list[str]


class User:
    """A server whose configuration has every hook, and the calls that the hooks have recorded."""

    def __init__(self, server: Gunicorn, calls: Path) -> None:
        """Reads from `calls`."""
        self.server = server
        self._calls = calls

    def calls(self) -> list[Call]:
        """All calls so far, of all processes."""
        if not self._calls.exists():
            return []
        return [Call(*json.loads(line)) for line in self._calls.read_text().splitlines()]

    def until(self, **times: int) -> None:
        """Waits until these hooks have been called so many times."""
        self.server.until(lambda: Counter(times) <= Counter(call.hook for call in self.calls()))

    def send(self, number: int, to: str) -> None:
        """Sends a signal to the last process that has called this hook."""
        os.kill([call.pid for call in self.calls() if call.hook == to][-1], number)


# What each process of a server has called.
Calls = list[list[tuple[str, list[str]]]]


def run_through_all_hooks(folder: Path, **way: str) -> tuple[Calls, Lines]:
    """Runs a server through everything that calls a hook; returns the calls of each process, and what has arrived."""
    command = f"{PLAIN} --dirty-app dirty:Dirty --dirty-workers 1 {ENCRYPTED}"
    with gunicorn(command, folder, CALLS=str(folder / "calls"), **way) as server:
        user = User(server, folder / "calls")
        user.until(post_worker_init=1, dirty_worker_init=1)
        ask_encrypted(server)
        server.process.send_signal(signal.SIGHUP)
        user.until(post_worker_init=2, dirty_worker_init=2, child_exit=1, dirty_worker_exit=1)
        ask_encrypted(server)
        user.send(signal.SIGINT, to="post_worker_init")
        user.until(post_worker_init=3, child_exit=2)
        user.send(signal.SIGABRT, to="post_worker_init")
        user.until(post_worker_init=4, child_exit=3)
        server.process.send_signal(signal.SIGUSR2)
        user.until(post_worker_init=5, dirty_worker_init=3)
        # The successor.
        user.send(signal.SIGTERM, to="pre_exec")
        user.until(on_exit=1)
        assert server.stop() == 0
        processes = defaultdict(list)
        for call in user.calls():
            processes[call.pid].append((call.hook, call.arguments))
    return sorted(processes.values()), server.lines


def ask_encrypted(server: Gunicorn) -> None:
    """Sends a request and waits until the server closes the connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    with closing(context.wrap_socket(server.connection())) as connection:
        connection.sendall(request("/", headers="Connection: close\r\n"))
        assert b"".join(iter(lambda: connection.recv(65536), b"")).startswith(b"HTTP/1.1 200 OK")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Calls:
    """The calls of a server without us."""
    need("gunicorn")
    calls, _ = run_through_all_hooks(tmp_path_factory.mktemp("alone"), **NEVER)
    return calls


def test_the_users_configuration_has_every_hook_of_gunicorn(alone: Calls) -> None:
    source = "from gunicorn.config import *; print(*(s.name for s in KNOWN_SETTINGS if 'Hooks' in s.section))"
    hooks = subprocess.check_output([SERVERS / "bin" / "python", "-c", source], text=True).split()
    assert {hook for calls in alone for hook, _ in calls} == set(hooks)


@pytest.mark.parametrize("way", WAYS)
def test_the_users_hooks_are_called_as_without_us(way: str, alone: Calls, tmp_path: Path) -> None:
    calls, lines = run_through_all_hooks(tmp_path, **WAYS[way])
    assert calls == without(WAYS[way].get("OMITTED"), alone)
    assert lines.sums("gunicorn.requests") == {"gunicorn.requests": 2}


def test_a_star_import_whose_hooks_are_all_overridden_does_nothing(alone: Calls, tmp_path: Path) -> None:
    calls, lines = run_through_all_hooks(tmp_path, INSTALLED="first")
    assert calls == alone
    assert list(lines) == []


def without(hook: str | None, calls: Calls) -> Calls:
    """The calls of all other hooks."""
    return sorted([call for call in process if call[0] != hook] for process in calls)


@pytest.mark.parametrize("arguments", ["2", "3", "4"])
def test_a_post_request_hook_gets_as_many_arguments_as_it_declares(arguments: str, tmp_path: Path) -> None:
    need("gunicorn")
    environment = {"CALLS": str(tmp_path / "calls"), "INSTALLED": "last", "POST_REQUEST": arguments}
    with gunicorn(PLAIN, tmp_path, **environment) as server:
        ask(server, "/missing")
        assert server.stop() == 0
        calls = User(server, tmp_path / "calls").calls()
    called = [call.arguments for call in calls if call.hook == "post_request"]
    assert called == [["SyncWorker", "Request", "dict /missing", "Response 404 Not Found"][: int(arguments)]]


def test_a_wrapped_hook_returns_and_raises_what_the_users_does() -> None:
    need("gunicorn")
    program = [SERVERS / "bin" / "python", PROGRAMS / "wrapped.py"]
    environment = os.environ | {"DD_DOGSTATSD_URL": DISCARD_URL}
    report = json.loads(subprocess.check_output(program, env=environment, text=True))
    assert {"post_fork", "post_worker_init", "pre_request", "post_request"} <= set(report["wrapped"])
    assert report["different"] == []


@dataclass(frozen=True)
class Seen:
    """What clients and operators see of a server."""

    answers: list[bytes]
    status: int
    log: Counter[str]


AT_THE_START = ["on_starting", "when_ready", "post_fork", "post_worker_init"]
IN_SERVICE = ["pre_request", "post_request", "worker_exit", "child_exit", "on_exit"]


@pytest.mark.parametrize("raising", [*AT_THE_START, *IN_SERVICE])
def test_an_exception_in_a_users_hook_has_the_same_effect_as_without_us(raising: str, tmp_path: Path) -> None:
    need("gunicorn")
    ways = {"never": NEVER, "last": WAYS["last"], "first": WAYS["first, without nworkers_changed"]}
    with side_by_side(lambda way: as_seen_raising(raising, tmp_path / way, ways[way]), zip(ways)) as played:
        never, last, first = (future.result() for future in played.values())
    assert any(raising in line for line in never.log)
    assert last == first == never


def as_seen_raising(raising: str, folder: Path, way: dict[str, str]) -> Seen:
    """A server that gets some requests and is stopped, unless it ends before."""
    folder.mkdir()
    with starting(PLAIN, folder, CALLS=str(folder / "calls"), RAISING=raising, **way) as server:
        if raising in AT_THE_START:
            return Seen([], server.process.wait(TIMEOUT), server.log_lines())
        server.until(server.is_listening)
        answers = [ask(server, page).answer for page in ("/", "/missing")]
        return Seen(answers, server.stop(), server.log_lines())


@pytest.mark.parametrize(("options", "variable"), [(OURS, ""), ("", OURS)])
def test_the_module_is_a_complete_configuration_even_after_a_reload(
    options: str, variable: str, tmp_path: Path
) -> None:
    need("gunicorn")
    with gunicorn(f"{options} scripted:wsgi", tmp_path, GUNICORN_CMD_ARGS=variable) as server:
        server.until(lambda: senders(server.lines, "gunicorn.workers") == {server.process.pid})
        server.until(lambda: senders(server.lines, "gunicorn.requests") == server.workers())
        server.process.send_signal(signal.SIGHUP)
        server.until(lambda: len(senders(server.lines, "gunicorn.requests")) == 2)
        assert server.stop() == 0


def senders(lines: Lines, name: str) -> set[int]:
    """Which processes have sent this."""
    return {line.pid for line in lines.named(name)}


@pytest.mark.parametrize("worker", CLASSES)
def test_clients_and_operators_see_no_difference(worker: str, tmp_path: Path) -> None:
    need("gunicorn", *NEEDS.get(worker, "").split())
    configs = {"without": "", "with": OURS}
    with side_by_side(lambda way: as_seen(worker, configs[way], tmp_path / way), zip(configs)) as played:
        expected, seen = (future.result() for future in played.values())
    assert len(expected.answers) == 13
    assert seen == expected


def as_seen(worker: str, config: str, folder: Path, **environment: str) -> Seen:
    """A server that gets all kinds of requests and is stopped."""
    folder.mkdir(exist_ok=True)
    chosen, application = CLASSES[worker]
    with gunicorn(f"{config} {chosen} scripted:{application}", folder, **environment) as server:
        answers = [ask(server, page).answer for page in [*PAGES, "/lazy"]]
        answers.append(ask(server, "/", method="HEAD").answer)
        answers += [send_bytes(server, "", TWO_LENGTHS).answer for _ in range(2)]
        status = server.stop()
    return Seen(answers, status, server.log_lines())


# Calls of ours that can fail, by the worker class with which they are made.
FAULTS = {
    "sync": "module.enabled module.become_gunicorn_master GunicornMaster.configure GunicornMaster.become_worker"
    " GunicornMaster.release GunicornMaster.mark_ended GunicornMaster.count_record Requests.begin Requests.refuse"
    " Request.answer Request.end Request.fail _wrap_hooks_at_reload worker_kind"
    " count_records _capacity _count_error_responses",
    "gevent": "_count_connections",
    "asgi": "Requests.begin Request.end",
    "uvicorn": "Requests.begin Request.end module.flush",
}


@pytest.fixture(scope="module")
def faultless(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Seen]:
    """What is seen of a server of each worker class without a fault."""

    @cache
    def seen(worker: str) -> Seen:
        return as_seen(worker, "--config faults_conf.py", tmp_path_factory.mktemp("faultless"), FAULT="none")

    return seen


@pytest.mark.parametrize(
    ("worker", "fault"),
    [(worker, fault) for worker, faults in FAULTS.items() for fault in faults.split()],
)
def test_an_error_of_ours_is_one_line_in_the_log(
    worker: str, fault: str, faultless: Callable[[str], Seen], tmp_path: Path
) -> None:
    need("gunicorn", *NEEDS.get(worker, "").split())
    expected = faultless(worker)
    seen = as_seen(worker, "--config faults_conf.py", tmp_path, FAULT=fault)
    assert (seen.answers, seen.status) == (expected.answers, expected.status)
    assert expected.log - seen.log == Counter()
    complaints = seen.log - expected.log
    assert all(fault in line for line in complaints)
    assert set(complaints.values()) == {1}
