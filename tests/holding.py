"""Gunicorn with its integration: what its processes send, line by line, and requests that last as long as wanted."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
from serving import PATIENCE, ROOT, SERVERS, Datagrams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

METRIC = re.compile(
    r"(?P<name>[a-z0-9_.]+)(?P<values>(?::[0-9]+(?:\.[0-9]+)?)+)\|(?P<type>c|d|g|h|ms)(?:\|@[0-9.]+)?"
    r"\|#(?P<tags>[^|\n]+)(?:\|c:[a-z0-9-]+)?(?:\|e:[a-z0-9,-]+)?(?:\|card:[a-z]+)?"
)
CHECK = re.compile(
    r"_sc\|(?P<name>[a-z_.]+)\|(?P<values>[0-3])(?P<type>)"
    r"\|#(?P<tags>[^|\n]+)(?:\|c:[a-z0-9-]+)?(?:\|e:[a-z0-9,-]+)?(?:\|card:[a-z]+)?"
)

OURS = "python:runtime_metrics.gunicorn"

# The requests that tests/servers/held.py does not answer to the end before it gets their body.
HELD = ("/hold", "/spin", "/raise", "/grow")

# A worker class, what it is to run, and the distributions it needs.
CLASSES = {
    "sync": ("sync", "held:wsgi", "gunicorn"),
    "gthread": ("gthread --threads 4", "held:wsgi", "gunicorn"),
    "gevent": ("gevent", "held:wsgi", "gunicorn gevent packaging"),
    "asgi": ("asgi", "held:asgi", "gunicorn"),
    "UvicornWorker": ("uvicorn_worker.UvicornWorker", "held:asgi", "gunicorn uvicorn-worker"),
}


@dataclass(frozen=True)
class Line:
    """A metric's or a service check's line, and the process that sent it, as the kernel says."""

    pid: int
    at: float
    name: str
    values: tuple[float, ...]
    type: str
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


@dataclass(frozen=True)
class Packet:
    """A datagram's lines, and how large its sender was just then."""

    pid: int
    lines: tuple[Line, ...]
    resident: int | None


def packet(payload: str, pid: int) -> Packet:
    """Takes a datagram of this process apart."""
    resident = None
    with suppress(psutil.NoSuchProcess):
        resident = psutil.Process(pid).memory_info().rss
    at = time.monotonic()
    lines = payload.splitlines()
    found = [match for line in lines if (match := METRIC.fullmatch(line) or CHECK.fullmatch(line))]
    assert len(found) == len(lines), payload
    return Packet(
        pid,
        tuple(
            Line(
                pid,
                at,
                match["name"],
                tuple(map(float, re.findall("[0-9.]+", match["values"]))),
                match["type"],
                tuple(match["tags"].split(",")),
            )
            for match in found
        ),
        resident,
    )


@dataclass(frozen=True)
class States:
    """How many workers there are in each state."""

    idle: int
    working: int


@contextmanager
def gunicorn(folder: Path, options: str, application: str, **environment: str) -> Iterator[Gunicorn]:
    """Runs a server as soon as it listens; leaves nothing of it behind."""
    server = Gunicorn(folder, options, application, environment)
    try:
        server.until(server.is_listening)
        yield server
    finally:
        server.kill()
        server.packets.stop()


class Gunicorn:
    """A server, and the receiver of what its processes send."""

    def __init__(self, folder: Path, options: str, application: str, environment: dict[str, str]) -> None:
        """Starts it; with the integration only if an option `--config` leads to that."""
        self.path = folder / "http"
        self.packets = Datagrams(folder / "dogstatsd", packet)
        self._stderr = folder / "stderr"
        settings = {
            "DD_DOGSTATSD_URL": self.packets.url,
            "DD_RUNTIME_METRICS_INTERVAL": "0.2",
            # Where Gunicorn keeps a file by the name of the application.
            "TMPDIR": str(folder),
        }
        arguments = f"--no-control-socket --bind unix:{self.path} {options} {application}"
        with self._stderr.open("wb") as stderr:
            self.process: psutil.Process = psutil.Popen(
                [str(SERVERS / "bin" / "gunicorn"), *shlex.split(arguments)],
                cwd=ROOT / "tests" / "servers",
                env=os.environ | settings | environment,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )
        self._group = self.process.pid

    @property
    def lines(self) -> list[Line]:
        """What has arrived, oldest first."""
        return [line for packet in list(self.packets) for line in packet.lines]

    @property
    def workers(self) -> set[int]:
        """The workers, as the kernel knows them: the master's children."""
        return {child.pid for child in self.process.children()}

    def states(self, pid: int | None = None) -> list[States]:
        """What this master has said about its workers, oldest first."""
        of_master = [line for line in self.lines if line.pid == (pid or self.process.pid)]
        idle, working = (
            [
                int(line.value)
                for line in of_master
                if line.name == "gunicorn.workers" and line.tag("state") == state
            ]
            for state in ("idle", "working")
        )
        # What arrives between the two is complete in a moment.
        return [States(*pair) for pair in zip(idle, working, strict=False)]

    def checks(self, pid: int | None = None) -> list[int]:
        """What this master has said about itself, oldest first."""
        return [
            int(line.value)
            for line in self.lines
            if line.name == "gunicorn.is_running" and line.pid == (pid or self.process.pid)
        ]

    def until(self, enough: Callable[[], bool]) -> None:
        """Waits, as long as the server runs."""
        deadline = time.monotonic() + PATIENCE
        while not enough():
            assert self.process.status() != psutil.STATUS_ZOMBIE, self.stderr()
            assert time.monotonic() < deadline, f"{self.states()[-3:]}\n{self.stderr()}"
            time.sleep(0.02)

    def open_to_everybody(self) -> None:
        """Lets processes of other users send and ask, if they can see the folder."""
        for path in (self.path.parent, self.path.parent / "dogstatsd", self.path):
            path.chmod(0o777)

    def until_states(self, idle: int, working: int) -> None:
        """Waits until the master says so."""
        self.until(lambda: self.states()[-1:] == [States(idle, working)])

    def next_states(self, number: int) -> list[States]:
        """What the master says from now on."""
        before = len(self.states())
        self.until(lambda: len(self.states()) >= before + number)
        return self.states()[before : before + number]

    def is_listening(self) -> bool:
        """Whether the server can be connected to."""
        with socket.socket(socket.AF_UNIX) as probe, suppress(FileNotFoundError, ConnectionRefusedError):
            probe.connect(str(self.path))
            return True
        return False

    def connect(self) -> socket.socket:
        """A connection over which nothing has been asked."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(PATIENCE)
        connection.connect(str(self.path))
        return connection

    def request(self, target: str = "/") -> Request:
        """A request that is being served."""
        return Request(self.connect(), target)

    def ask(self, target: str = "/") -> int:
        """The process that has answered a request."""
        with self.request(target) as request:
            assert request.end() == b"done\n"
            return request.pid

    def end(self, by: signal.Signals = signal.SIGTERM) -> int | None:
        """Ends the master by a signal, waits for all its processes, and gives the exit status."""
        family = self.process.children(recursive=True)
        self.process.send_signal(by)
        status = self.process.wait(PATIENCE)
        _, alive = psutil.wait_procs(family, PATIENCE)
        assert alive == [], self.stderr()
        self.packets.stop()
        return status

    def stderr(self) -> str:
        """What the server has written."""
        return self._stderr.read_text()

    def kill(self) -> None:
        """Leaves no process behind, whichever master is left."""
        with suppress(ProcessLookupError):
            os.killpg(self._group, signal.SIGKILL)
        self.process.wait(PATIENCE)


class Request:
    """A request to the application in tests/servers/held.py, from its first answer on."""

    def __init__(self, connection: socket.socket, target: str) -> None:
        """Sends all but the body, and waits until the application has begun to answer."""
        with connection:
            self._stream = connection.makefile("rwb", buffering=0)
        body = "Content-Length: 1\r\n" if target.startswith(HELD) else ""
        self._stream.write(
            f"POST {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{body}\r\n".encode()
        )
        self.status = int(self._stream.readline().split()[1])
        while self._stream.readline().strip():
            pass
        self.pid = int(self._stream.readline())

    def release(self) -> None:
        """Lets what is held end."""
        self._stream.write(b".")

    def end(self) -> bytes:
        """Waits for the rest of the answer."""
        return self._stream.read()

    def __enter__(self) -> Request:
        """Gives the request itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Hangs up."""
        self._stream.close()
