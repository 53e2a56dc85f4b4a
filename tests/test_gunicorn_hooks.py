"""A user's configuration of Gunicorn with ours in it: every hook of the user's is called as if we were not there."""

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
from pathlib import Path
from typing import NamedTuple

import pytest
from gunicorns import CLASSES, NEEDS, OURS, PAGES, Gunicorn, ask, gunicorn, request, starting
from serving import PATIENCE, SERVERS, need

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="needs Linux, where a Unix socket tells which process has sent"
)

PLAIN = "--config hooks_conf.py --worker-class sync scripted:wsgi"

# Encryption without a certificate, so that no key has to be kept: Gunicorn wants some file, and the user's hook has
# no use for it.
ENCRYPTED = "--certfile scripted.py"
CIPHERS = "AECDH-AES128-SHA:@SECLEVEL=0"


PROGRAMS = Path(__file__).parent / "programs"


class Call(NamedTuple):
    """A call of a hook."""

    pid: int
    hook: str
    arguments: list[str]


class User:
    """A server whose configuration has every hook, and what the hooks have noted."""

    def __init__(self, server: Gunicorn, calls: Path) -> None:
        """Reads from `calls`."""
        self.server = server
        self._calls = calls

    def calls(self) -> list[Call]:
        """All calls so far, of all processes."""
        return [Call(*json.loads(line)) for line in self._calls.read_text().splitlines()]

    def until(self, **times: int) -> None:
        """Waits until these hooks have been called so often."""
        self.server.until(lambda: Counter(times) <= Counter(call.hook for call in self.calls()))

    def send(self, number: int, to: str) -> None:
        """Sends a signal to the process that was the last to call this hook."""
        os.kill([call.pid for call in self.calls() if call.hook == to][-1], number)


def calls_of_a_life(installed: str, folder: Path) -> list[list[tuple[str, list[str]]]]:
    """Leads a server through everything that calls a hook: what each of its processes has called."""
    calls = folder / "calls"
    calls.touch()
    command = f"{PLAIN} --dirty-app dirty:Idle --dirty-workers 1 {ENCRYPTED}"
    with gunicorn(command, folder, CALLS=str(calls), INSTALLED=installed) as server:
        user = User(server, calls)
        user.until(post_worker_init=1, dirty_worker_init=1)
        ask_encrypted(server)
        user.send(signal.SIGHUP, to="when_ready")
        user.until(post_worker_init=2, dirty_worker_init=2, child_exit=1, dirty_worker_exit=1)
        ask_encrypted(server)
        user.send(signal.SIGINT, to="post_worker_init")
        user.until(post_worker_init=3, child_exit=2)
        user.send(signal.SIGABRT, to="post_worker_init")
        user.until(post_worker_init=4, child_exit=3)
        user.send(signal.SIGUSR2, to="when_ready")
        user.until(post_worker_init=5, dirty_worker_init=3)
        user.send(signal.SIGTERM, to="when_ready")
        user.until(on_exit=1)
        assert server.stop() == 0
        processes = defaultdict(list)
        for call in user.calls():
            processes[call.pid].append((call.hook, call.arguments))
    return sorted(processes.values())


def ask_encrypted(server: Gunicorn) -> None:
    """Sends a request and waits until the server hangs up."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    with closing(context.wrap_socket(server.connection())) as connection:
        connection.sendall(request("/", headers="Connection: close\r\n"))
        assert b"".join(iter(lambda: connection.recv(65536), b"")).startswith(b"HTTP/1.1 200 OK")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[list[tuple[str, list[str]]]]:
    """What the processes of a server without us call."""
    need("gunicorn")
    return calls_of_a_life("never", tmp_path_factory.mktemp("alone"))


def test_the_user_has_every_hook_of_gunicorn(alone: list[list[tuple[str, list[str]]]]) -> None:
    source = "from gunicorn.config import *; print(*(s.name for s in KNOWN_SETTINGS if 'Hooks' in s.section))"
    hooks = subprocess.check_output([SERVERS / "bin" / "python", "-c", source], text=True).split()
    assert {hook for calls in alone for hook, _ in calls} == set(hooks)


@pytest.mark.parametrize("installed", ["first", "last"])
def test_the_users_hooks_are_called_as_without_us(
    installed: str, alone: list[list[tuple[str, list[str]]]], tmp_path: Path
) -> None:
    assert calls_of_a_life(installed, tmp_path) == alone


@pytest.mark.parametrize("installed", ["first", "last"])
@pytest.mark.parametrize("arguments", ["2", "3", "4"])
def test_a_post_request_hook_has_as_many_arguments_as_it_wants(
    installed: str, arguments: str, tmp_path: Path
) -> None:
    need("gunicorn")
    calls = tmp_path / "calls"
    calls.touch()
    environment = {"CALLS": str(calls), "INSTALLED": installed, "POST_REQUEST": arguments}
    with gunicorn(PLAIN, tmp_path, **environment) as server:
        ask(server, "/missing")
        assert server.stop() == 0
        called = [call.arguments for call in User(server, calls).calls() if call.hook == "post_request"]
    assert called == [["SyncWorker", "Request", "dict /missing", "Response 404 Not Found"][: int(arguments)]]


def test_a_wrapped_hook_gives_and_raises_what_the_users_does() -> None:
    need("gunicorn")
    program = [SERVERS / "bin" / "python", PROGRAMS / "wrapped.py"]
    told = json.loads(subprocess.check_output(program, text=True))
    assert {"post_fork", "post_worker_init", "pre_request", "post_request"} <= set(told["wrapped"])
    assert told["different"] == []


@pytest.mark.parametrize("raising", ["pre_request", "post_request", "worker_exit", "on_exit"])
def test_a_users_exception_in_service_does_what_it_did(raising: str, tmp_path: Path) -> None:
    need("gunicorn")
    outcomes = [service(how, raising, tmp_path) for how in ("never", "first", "last")]
    assert any(raising in line for line in outcomes[0].words)
    assert outcomes[1:] == outcomes[:1] * 2


@pytest.mark.parametrize("raising", ["on_starting", "when_ready", "post_fork", "post_worker_init"])
def test_a_users_exception_at_the_start_does_what_it_did(raising: str, tmp_path: Path) -> None:
    need("gunicorn")
    fates = [fate(how, raising, tmp_path) for how in ("never", "first", "last")]
    assert any(raising in line for line in fates[0].words)
    assert fates[1:] == fates[:1] * 2


@dataclass(frozen=True)
class Seen:
    """What clients and operators see of a server."""

    answers: list[bytes]
    status: int
    words: Counter[str]


def service(installed: str, raising: str, folder: Path) -> Seen:
    """A server that is asked and stopped."""
    environment = users(installed, raising, folder)
    with gunicorn(PLAIN, folder / installed, **environment) as server:
        answers = [ask(server, page).answer for page in ("/", "/missing")]
        status = server.stop()
    return Seen(answers, status, server.words())


def fate(installed: str, raising: str, folder: Path) -> Seen:
    """A server that does not get so far."""
    environment = users(installed, raising, folder)
    with starting(PLAIN, folder / installed, **environment) as server:
        status = server.process.wait(PATIENCE)
    return Seen([], status, server.words())


def users(installed: str, raising: str, folder: Path) -> dict[str, str]:
    """The environment of a server whose user's hook raises, in a folder of its own."""
    (folder / installed).mkdir()
    return {"CALLS": str(folder / installed / "calls"), "INSTALLED": installed, "RAISING": raising}


@pytest.mark.parametrize("worker", CLASSES)
def test_clients_and_operators_see_no_difference(worker: str, tmp_path: Path) -> None:
    need("gunicorn", *NEEDS.get(worker, "").split())
    without, within = tmp_path / "without", tmp_path / "within"
    expected = as_seen(worker, "", without)
    assert len(expected.answers) == 11
    assert as_seen(worker, OURS, within) == expected


def as_seen(worker: str, options: str, folder: Path) -> Seen:
    """A server that is asked for every page and stopped."""
    folder.mkdir()
    chosen, application = CLASSES[worker]
    with gunicorn(f"{options} {chosen} --workers 2 scripted:{application}", folder) as server:
        answers = [ask(server, page).answer for page in [*PAGES, "/lazy"]]
        answers.append(ask(server, "/", method="HEAD").answer)
        status = server.stop()
    return Seen(answers, status, server.words())
