"""Gunicorn with the integration: runs one, keeps every line that its processes send, and sends requests to it.

The bounds of a request's duration need no tolerance: it is at least what the page sleeps, and at most what the client
waits until the server closes the connection, which it does after the request. However busy the machine is, a correct
duration is between the two.
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
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar

import psutil
from serving import ROOT, SERVERS, TIMEOUT, Datagrams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future
    from pathlib import Path


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

# Installs our hooks without a configuration file.
OURS = "--config python:runtime_metrics.gunicorn"

# Paths of the application, in the order in which they are requested.
PAGES = ["/", "/missing", "/failing", "/slow", "/raising", "/started", "/silent", "/broken", "/streamed"]

# Enough to count as a request, and malformed, so that it is rejected.
TWO_LENGTHS = b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"

# A metric of every process and every flush.
IN_EVERY_FLUSH = "runtime.python.cpu.time.sys"

# How long a page sleeps, in milliseconds.
PAGE_SLEEPS = {"/slow": 20.0, "/raising": 400.0, "/streamed": 150.0}

# The end of the head, and the body, of a plain page.
END = b"\r\n\r\n\r\n"

LINE = re.compile(
    r"(?P<name>[A-Za-z0-9_.]+):(?P<values>[0-9.]+(?::[0-9.]+)*)\|(?P<type>[a-z]+)(?:\|@(?P<rate>[0-9.]+))?"
    r"(?:\|#(?P<tags>[^|\n]+))?(?:\|c:[a-z0-9-]+)?(?:\|e:[a-z0-9,-]+)?(?:\|card:[a-z]+)?"
)
CHECK = re.compile(
    r"_sc\|(?P<name>[a-z_.]+)\|(?P<status>[0-3])\|#(?P<tags>[^|\n]+)"
    r"(?:\|c:[a-z0-9-]+)?(?:\|e:[a-z0-9,-]+)?(?:\|card:[a-z]+)?"
)


# The date in the head of an answer.
DATE = re.compile(rb"(?i)date: [^\r]+\r\n")

# What differs between two runs in the log of Gunicorn: times and process ids.
VARYING = re.compile(
    r"\[[0-9-]{10} [0-9:]{8} [+0-9]{5}\]|(?<=[\[(])[0-9]+(?=[\])])|(?<=pid: )[0-9]+|(?<=pid:)[0-9]+"
)
FRAMES = re.compile(r'  File "[^"]*/runtime_metrics/[^"]*", line [0-9]+, in .*\n(?:    .*\n)*')


@dataclass(frozen=True)
class Line:
    """One line of a datagram, parsed, and the process that sent it, as the kernel says."""

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
        """The value of a tag that occurs once."""
        (value,) = [tag.partition(":")[2] for tag in self.tags if tag.startswith(f"{key}:")]
        return value


class Lines(Datagrams[list[Line]]):
    """A receiver of lines, several of which may be in a datagram."""

    def __init__(self, path: Path) -> None:
        """Begins to listen."""
        super().__init__(path, lines_of)

    def named(self, name: str) -> list[Line]:
        """The lines of all metrics whose names start with this."""
        return [line for lines in list(self) for line in lines if line.name.startswith(name)]

    def of(self, name: str) -> list[Line]:
        """The lines of this metric."""
        return [line for line in self.named(name) if line.name == name]

    def sums(self, name: str) -> dict[str, float]:
        """The sums of the counters whose names start with this, without those that are 0."""
        sums: defaultdict[str, float] = defaultdict(float)
        for line in self.named(name):
            if line.type == "c":
                sums[line.name] += sum(line.values)
        return {name: value for name, value in sums.items() if value}

    def values(self, name: str) -> list[float]:
        """The values of a metric, in ascending order."""
        return sorted(value for line in self.named(name) for value in line.values)


def lines_of(payload: str, pid: int) -> list[Line]:
    """Parses a datagram of this process."""
    return [line_of(text, pid) for text in payload.splitlines()]


def line_of(text: str, pid: int) -> Line:
    """Parses a line. The value of a service check is its status."""
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
    """Runs Gunicorn until it is stopped; it listens already. `{statsd}` is the address of a second receiver."""
    with starting(options, folder, **environment) as server:
        server.until(server.is_listening)
        yield server


@contextmanager
def starting(options: str, folder: Path, **environment: str) -> Iterator[Gunicorn]:
    """Runs a Gunicorn that may fail before it listens."""
    server = Gunicorn(options, folder, environment)
    try:
        yield server
    finally:
        server.kill()
        server.lines.stop()
        server.statsd.stop()


@contextmanager
def side_by_side(play: Callable[..., Played], cases: Iterable[Case]) -> Iterator[dict[Case, Future[Played]]]:
    """Plays the cases, three at a time: servers wait more than they work, but several tests may do this at once."""
    with ThreadPoolExecutor(3) as executor:
        try:
            yield {case: executor.submit(play, *case) for case in cases}
        finally:
            executor.shutdown(cancel_futures=True)


class Gunicorn:
    """A Gunicorn, the lines that reach the Agent, and those that Gunicorn's statsd client sends."""

    def __init__(self, options: str, folder: Path, environment: dict[str, str]) -> None:
        """Starts it."""
        self.path = folder / "http"
        self.held = folder / "held"
        self.recorded = folder / "recorded"
        self.lines = Lines(folder / "dogstatsd")
        self.statsd = Lines(folder / "statsd")
        self._stderr = folder / "stderr"
        # By a file there, a Gunicorn kills the dirty arbiter of another of the same name: no two may share it. It is
        # not the folder of the test, because the paths of sockets must be short.
        self._temporary = TemporaryDirectory()
        settings = {
            "DD_DOGSTATSD_URL": self.lines.url,
            "DD_RUNTIME_METRICS_INTERVAL": "0.5",
            "HELD": str(self.held),
            "RECORDED": str(self.recorded),
            "TMPDIR": self._temporary.name,
        }
        command = f"gunicorn --no-control-socket --bind unix:{self.path} {options}"
        program, *arguments = shlex.split(command.format(statsd=self.statsd.url, folder=folder))
        with self._stderr.open("wb") as stderr:
            self.process = psutil.Popen(
                [str(SERVERS / "bin" / program), *arguments],
                cwd=ROOT / "tests" / "servers",
                env=os.environ | settings | environment,
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
        client.settimeout(TIMEOUT)
        try:
            client.connect(str(self.path))
        except OSError:
            client.close()
            raise
        return client

    def until(self, enough: Callable[[], object]) -> None:
        """Waits until a condition holds; fails as soon as the server has ended."""
        deadline = time.monotonic() + TIMEOUT
        while not enough():
            assert self.process.poll() is None, self.stderr()
            assert time.monotonic() < deadline, self.stderr()
            time.sleep(0.02)

    def recorded_time(self) -> float:
        """Waits for the time that the application records, and removes it."""
        self.until(lambda: self.recorded.exists() and self.recorded.read_text().endswith("\n"))
        recorded = float(self.recorded.read_text())
        self.recorded.unlink()
        return recorded

    def workers(self) -> set[int]:
        """Its worker processes."""
        return {child.pid for child in self.process.children()}

    def until_all_is_reported(self) -> None:
        """Waits until each worker has sent two more flushes: then everything that has happened is reported."""
        now, workers = time.monotonic(), self.workers()

        def flushes() -> Counter[int]:
            lines = self.lines.named(IN_EVERY_FLUSH)
            return Counter(line.pid for line in lines if line.at > now)

        self.until(lambda: min(flushes()[worker] for worker in workers) >= 2)

    def stop(self) -> int:
        """Stops it as an operator would, and returns the exit status."""
        family = self.process.children(recursive=True)
        self.process.terminate()
        status = self.process.wait(TIMEOUT)
        _, alive = psutil.wait_procs(family, TIMEOUT)
        assert alive == [], self.stderr()
        self.lines.stop()
        self.statsd.stop()
        return int(status)

    def stderr(self) -> str:
        """What it has written."""
        return self._stderr.read_text()

    def log_lines(self) -> Counter[str]:
        """The lines of its log, without what differs from run to run and without our stack frames."""
        text = FRAMES.sub("", self.stderr()).replace(str(self.path), "PATH")
        return Counter(VARYING.sub("", line) for line in text.splitlines())

    def kill(self) -> None:
        """Kills every process that is left, and removes its files."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(TIMEOUT)
        self._temporary.cleanup()


@dataclass(frozen=True)
class Exchange:
    """A request as its client sees it: the answer without its date, and the bounds of the duration in milliseconds."""

    path: str
    answer: bytes
    min_duration: float
    max_duration: float

    @property
    def status(self) -> int | None:
        """The status of the answer, if there is one."""
        return status_of(self.answer)


def ask(server: Gunicorn, path: str, headers: str = "", method: str = "GET") -> Exchange:
    """Sends a request on a new connection and waits until the server closes it."""
    return send_bytes(server, path, request(path, method, f"Connection: close\r\n{headers}"))


def send_bytes(server: Gunicorn, path: str, data: bytes) -> Exchange:
    """Sends exactly these bytes and waits until the server closes the connection."""
    begin = time.monotonic()
    with closing(server.connection()) as connection:
        connection.sendall(data)
        answer = b"".join(iter(partial(received, connection), b""))
    return Exchange(path, DATE.sub(b"", answer), PAGE_SLEEPS.get(path, 0), since(begin))


def ask_again(server: Gunicorn, times: int) -> tuple[list[Exchange], int]:
    """Sends requests one after the other; returns also how many connections that took.

    A server ends a request before it answers the next on the same connection.
    """
    starts, ends, answers = [], [], []
    connections: list[socket.socket] = []
    for left in reversed(range(times)):
        starts.append(time.monotonic())
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
        Exchange("/", answer, 0, (end - begin) * 1000)
        for answer, begin, end in zip(answers, starts, [*ends[1:], ends[-1]], strict=True)
    ]
    return asked, len(connections)


def ask_at_once(server: Gunicorn, path: str, connections: int, times: int) -> int:
    """Sends so many requests on each of so many connections without waiting; returns the number of answers."""
    requests = request(path) * (times - 1) + request(path, headers="Connection: close\r\n")
    with ExitStack() as stack:
        opened = [stack.enter_context(closing(server.connection())) for _ in range(connections)]
        for connection in opened:
            connection.sendall(requests)
        return sum(b"".join(iter(partial(received, connection), b"")).count(END) for connection in opened)


def disconnect_before_the_answer(server: Gunicorn) -> Exchange:
    """Closes the connection before the answer, and waits until the application gives it."""
    begin = time.monotonic()
    with closing(server.connection()) as connection:
        connection.sendall(request("/late"))
        time.sleep(0.1)
    return Exchange("/late", b"", 200, (server.recorded_time() - begin) * 1000)


def disconnect_during_the_answer(server: Gunicorn) -> Exchange:
    """Closes the connection during the answer, and waits until the application has noticed."""
    begin = time.monotonic()
    with closing(server.connection()) as connection:
        connection.sendall(request("/endless"))
        answer = received(connection)
        answered = time.monotonic()
        time.sleep(0.1)
        minimum = since(answered)
    return Exchange("/endless", answer, minimum, (server.recorded_time() - begin) * 1000)


def request(path: str, method: str = "GET", headers: str = "") -> bytes:
    """A request."""
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode()


def received(connection: socket.socket) -> bytes:
    """What arrives next; nothing once the server has closed the connection."""
    with suppress(ConnectionResetError):
        return connection.recv(65536)
    return b""


def status_of(answer: bytes) -> int | None:
    """The status of an answer, if there is one."""
    return int(answer.split()[1]) if answer else None


def since(begin: float) -> float:
    """The milliseconds from then to now."""
    return (time.monotonic() - begin) * 1000
