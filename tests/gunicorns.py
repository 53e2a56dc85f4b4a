"""Gunicorn with the integration: runs one, keeps every line of its processes, and plays a script to it.

A request's duration is known from outside without any tolerance: it is at least what the page sleeps and at most what
the client waits, which reads until the server hangs up, after the request. So no load of the machine can make a right
duration look wrong.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import psutil
from conftest import SETTINGS
from serving import PATIENCE, ROOT, SERVERS, Datagrams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future
    from pathlib import Path

    import pytest

Played = TypeVar("Played")
Case = TypeVar("Case", bound=tuple[str, ...])

CLASSES = {
    "sync": ("--worker-class sync", "wsgi"),
    "gthread": ("--worker-class gthread --threads 4", "wsgi"),
    "gevent": ("--worker-class gevent", "wsgi"),
    "asgi": ("--worker-class asgi --asgi-disconnect-grace-period 0", "asgi"),
    "uvicorn": ("--worker-class uvicorn_worker.UvicornWorker", "asgi"),
}
NEEDS = {"gevent": "gevent packaging", "uvicorn": "uvicorn-worker"}

# The way in that needs no file of the user's.
OURS = "--config python:runtime_metrics.gunicorn"

# Of the application, in this order.
PAGES = ["/", "/missing", "/failing", "/slow", "/raising", "/started", "/silent", "/broken", "/streamed"]

# Enough to be a request, and not to be served.
TWO_LENGTHS = b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"

# What every process sends at every flush.
BEAT = "runtime.python.cpu.time.sys"

# What a page sleeps, in milliseconds.
SCRIPTED = {"/slow": 20.0, "/raising": 400.0, "/streamed": 150.0}

# The head's end and the body of a plain page.
END = b"\r\n\r\n\r\n"

LINE = re.compile(
    r"(?P<name>[A-Za-z0-9_.]+):(?P<values>[0-9.]+(?::[0-9.]+)*)\|(?P<type>[a-z]+)(?:\|@(?P<rate>[0-9.]+))?"
    r"(?:\|#(?P<tags>[^|\n]+))?(?:\|c:[a-z0-9-]+)?(?:\|e:[a-z0-9,-]+)?(?:\|card:[a-z]+)?"
)
CHECK = re.compile(
    r"_sc\|(?P<name>[a-z_.]+)\|(?P<status>[0-3])\|#(?P<tags>[^|\n]+)"
    r"(?:\|c:[a-z0-9-]+)?(?:\|e:[a-z0-9,-]+)?(?:\|card:[a-z]+)?"
)


# Of an answer.
DATE = re.compile(rb"(?i)date: [^\r]+\r\n")

# Of what Gunicorn writes: the time, and numbers of processes.
VARYING = re.compile(
    r"\[[0-9-]{10} [0-9:]{8} [+0-9]{5}\]|(?<=[\[(])[0-9]+(?=[\])])|(?<=pid: )[0-9]+|(?<=pid:)[0-9]+"
)
FRAMES = re.compile(r'  File "[^"]*/runtime_metrics/[^"]*", line [0-9]+, in .*\n(?:    .*\n)*')


@dataclass(frozen=True)
class Line:
    """One line of a datagram: the process that sent it, as the kernel says, and what it holds."""

    pid: int
    at: float
    name: str
    values: tuple[float, ...]
    type: str
    rate: float | None
    tags: tuple[str, ...]

    @property
    def value(self) -> float:
        """The only value."""
        (value,) = self.values
        return value

    def tag(self, key: str) -> str:
        """The value of a tag that is there once."""
        (value,) = [tag.partition(":")[2] for tag in self.tags if tag.startswith(f"{key}:")]
        return value


class Lines(Datagrams[list[Line]]):
    """A receiver of lines, which may be packed."""

    def __init__(self, path: Path) -> None:
        """Begins to listen."""
        super().__init__(path, lines_of)

    def named(self, name: str) -> list[Line]:
        """The lines of all metrics whose names begin so."""
        return [line for lines in list(self) for line in lines if line.name.startswith(name)]

    def sums(self, name: str) -> dict[str, float]:
        """What the counters whose names begin so have come to, without those at 0."""
        sums: defaultdict[str, float] = defaultdict(float)
        for line in self.named(name):
            if line.type == "c":
                sums[line.name] += sum(line.values)
        return {name: value for name, value in sums.items() if value}

    def values(self, name: str) -> list[float]:
        """The values of a metric, in ascending order."""
        return sorted(value for line in self.named(name) for value in line.values)


def lines_of(payload: str, pid: int) -> list[Line]:
    """Takes a datagram of this process apart."""
    return [line_of(text, pid) for text in payload.splitlines()]


def line_of(text: str, pid: int) -> Line:
    """Takes a line apart. A service check has its status for a value."""
    if check := CHECK.fullmatch(text):
        values = (float(check["status"]),)
        return Line(
            pid, time.monotonic(), check["name"], values, "_sc", None, tuple(check["tags"].split(","))
        )
    line = LINE.fullmatch(text)
    assert line is not None, text
    rate, tags = line["rate"], line["tags"]
    return Line(
        pid,
        time.monotonic(),
        line["name"],
        tuple(map(float, line["values"].split(":"))),
        line["type"],
        float(rate) if rate else None,
        tuple(tags.split(",")) if tags else (),
    )


@contextmanager
def gunicorn(options: str, folder: Path, **environment: str) -> Iterator[Gunicorn]:
    """Runs Gunicorn, which listens, until it is stopped. `{statsd}` is the address of a second receiver."""
    with starting(options, folder, **environment) as server:
        server.until(server.is_listening)
        yield server


@contextmanager
def starting(options: str, folder: Path, **environment: str) -> Iterator[Gunicorn]:
    """Runs a Gunicorn that may not get as far."""
    server = Gunicorn(options, folder, environment)
    try:
        yield server
    finally:
        server.kill()
        server.lines.stop()
        server.own.stop()


@contextmanager
def side_by_side(play: Callable[..., Played], cases: Iterable[Case]) -> Iterator[dict[Case, Future[Played]]]:
    """Plays all cases, some at a time: servers wait more than they work."""
    with ThreadPoolExecutor(5) as executor:
        try:
            yield {case: executor.submit(play, *case) for case in cases}
        finally:
            executor.shutdown(cancel_futures=True)


def selected(request: pytest.FixtureRequest, fixture: str) -> list[Any]:
    """With which parameters the tests of this session use a fixture."""
    calls = [getattr(item, "callspec", None) for item in request.session.items]
    parameters = [call.params[fixture] for call in calls if call is not None and fixture in call.params]
    return list(dict.fromkeys(parameters))


class Gunicorn:
    """A Gunicorn, the lines that reach the Agent, and those that its own statsd client sends."""

    def __init__(self, options: str, folder: Path, environment: dict[str, str]) -> None:
        """Starts it."""
        self.path = folder / "http"
        self.held = folder / "held"
        self.left = folder / "left"
        self.lines = Lines(folder / "dogstatsd")
        self.own = Lines(folder / "statsd")
        self._stderr = folder / "stderr"
        settings = {
            "DD_DOGSTATSD_URL": self.lines.url,
            "DD_RUNTIME_METRICS_INTERVAL": "0.5",
            "HELD": str(self.held),
            "LEFT": str(self.left),
        }
        # Also where fixtures of a module start it, before the environment is made plain.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
        command = f"gunicorn --no-control-socket --bind unix:{self.path} {options}"
        program, *arguments = shlex.split(command.format(statsd=self.own.url, folder=folder))
        with self._stderr.open("wb") as stderr:
            self.process = psutil.Popen(
                [str(SERVERS / "bin" / program), *arguments],
                cwd=ROOT / "tests" / "servers",
                env=inherited | settings | environment,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )

    def is_listening(self) -> bool:
        """Whether it can be connected to."""
        with suppress(FileNotFoundError, ConnectionRefusedError), closing(self.connection()):
            return True
        return False

    def connection(self) -> socket.socket:
        """Connects."""
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(PATIENCE)
        try:
            client.connect(str(self.path))
        except OSError:
            client.close()
            raise
        return client

    def until(self, enough: Callable[[], object]) -> None:
        """Waits, as long as it runs."""
        deadline = time.monotonic() + PATIENCE
        while not enough():
            assert self.process.poll() is None, self.stderr()
            assert time.monotonic() < deadline, self.stderr()
            time.sleep(0.02)

    def noted(self) -> float:
        """Waits for the time that the application notes, and takes it away."""
        self.until(lambda: self.left.exists() and self.left.read_text().endswith("\n"))
        noted = float(self.left.read_text())
        self.left.unlink()
        return noted

    def workers(self) -> set[int]:
        """Its worker processes."""
        return {child.pid for child in self.process.children()}

    def until_all_is_told(self) -> None:
        """Waits until each worker has sent two flushes more: nothing that has happened is still in it."""
        now, workers = time.monotonic(), self.workers()

        def flushes() -> Counter[int]:
            beats = self.lines.named(BEAT)
            return Counter(line.pid for line in beats if line.at > now)

        self.until(lambda: min(flushes()[worker] for worker in workers) >= 2)

    def stop(self) -> int:
        """Ends it as an operator does, and gives the exit status."""
        family = self.process.children(recursive=True)
        self.process.terminate()
        status = self.process.wait(PATIENCE)
        _, alive = psutil.wait_procs(family, PATIENCE)
        assert alive == [], self.stderr()
        self.lines.stop()
        self.own.stop()
        return int(status)

    def stderr(self) -> str:
        """What it has written."""
        return self._stderr.read_text()

    def words(self) -> Counter[str]:
        """The lines of what it has written, without what differs from run to run, and without our stack frames."""
        text = FRAMES.sub("", self.stderr()).replace(str(self.path), "PATH")
        return Counter(VARYING.sub("", line) for line in text.splitlines())

    def kill(self) -> None:
        """Leaves nothing behind."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)


@dataclass(frozen=True)
class Asked:
    """What a client knows of its request: the answer but its date, and the limits of the duration in milliseconds."""

    path: str
    answer: bytes
    least: float
    most: float

    @property
    def status(self) -> int | None:
        """The answer's status, if there is one."""
        return status_of(self.answer)


def ask(server: Gunicorn, path: str, headers: str = "", method: str = "GET") -> Asked:
    """Sends a request on a connection of its own and waits until the server hangs up."""
    return tell(server, path, request(path, method, f"Connection: close\r\n{headers}"))


def tell(server: Gunicorn, path: str, said: bytes) -> Asked:
    """Sends just these bytes and waits until the server hangs up."""
    begin = time.monotonic()
    with closing(server.connection()) as connection:
        connection.sendall(said)
        answer = b"".join(iter(partial(received, connection), b""))
    return Asked(path, DATE.sub(b"", answer), SCRIPTED.get(path, 0), since(begin))


def ask_again(server: Gunicorn, times: int) -> tuple[list[Asked], int]:
    """Sends requests one after the other, and gives the number of connections that it took as well.

    A server ends a request before it answers the connection's next.
    """
    begins, ends, answers = [], [], []
    connections: list[socket.socket] = []
    for left in reversed(range(times)):
        begins.append(time.monotonic())
        if not connections or connections[-1].fileno() < 0:
            connections.append(server.connection())
        connections[-1].sendall(request("/", "GET", "" if left else "Connection: close\r\n"))
        answer = b""
        while not answer.endswith(END):
            answer += received(connections[-1])
        answers.append(answer)
        if b"connection: close" in answer.lower():
            assert received(connections[-1]) == b""
            connections[-1].close()
        ends.append(time.monotonic())
    asked = [
        Asked("/", answer, 0, (end - begin) * 1000)
        for answer, begin, end in zip(answers, begins, [*ends[1:], ends[-1]], strict=True)
    ]
    return asked, len(connections)


def ask_at_once(server: Gunicorn, path: str, connections: int, times: int) -> int:
    """Sends so many requests on each of so many connections without waiting, and gives the number of answers."""
    said = request(path) * (times - 1) + request(path, headers="Connection: close\r\n")
    with ExitStack() as stack:
        opened = [stack.enter_context(closing(server.connection())) for _ in range(connections)]
        for connection in opened:
            connection.sendall(said)
        return sum(b"".join(iter(partial(received, connection), b"")).count(END) for connection in opened)


def leave_early(server: Gunicorn) -> Asked:
    """Hangs up before the answer, and waits until the application gives it."""
    begin = time.monotonic()
    with closing(server.connection()) as connection:
        connection.sendall(request("/late"))
        time.sleep(0.1)
    return Asked("/late", b"", 200, (server.noted() - begin) * 1000)


def leave(server: Gunicorn) -> Asked:
    """Hangs up in the midst of the answer, and waits until the application has noticed."""
    begin = time.monotonic()
    with closing(server.connection()) as connection:
        connection.sendall(request("/endless"))
        answer = received(connection)
        answered = time.monotonic()
        time.sleep(0.1)
        least = since(answered)
    return Asked("/endless", answer, least, (server.noted() - begin) * 1000)


def request(path: str, method: str = "GET", headers: str = "") -> bytes:
    """A request."""
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode()


def received(connection: socket.socket) -> bytes:
    """What arrives next, nothing once the server has hung up."""
    with suppress(ConnectionResetError):
        return connection.recv(65536)
    return b""


def status_of(answer: bytes) -> int | None:
    """The status of an answer, if there is one."""
    return int(answer.split()[1]) if answer else None


def since(begin: float) -> float:
    """The milliseconds from then to now."""
    return (time.monotonic() - begin) * 1000
