"""Real servers: runs one, sends requests as clients would, and keeps what its processes report."""

from __future__ import annotations

import http.client
import importlib.metadata
import os
import re
import shlex
import signal
import socket
import struct
import subprocess
import threading
import time
from collections import Counter
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import psutil
import pytest
from catalogue_names import PREFIX
from receiving import LINE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parent.parent
# The prefixes of the variables that we read.
SETTINGS = ("DATADOG_", "DD_", "OTEL_")

SERVERS = Path(os.environ.get("RUNTIME_METRICS_SERVERS", ROOT / ".servers"))

# How many seconds to wait for anything, on a slow machine too.
TIMEOUT = 40

# What an error of ours would leave on stderr.
OUR_ERRORS = re.compile("runtime_metrics|rtm-|panicked|Traceback|Fatal Python error")

# CPython's warning of a fork in a process with threads. Some servers have threads themselves and cause it anyway.
FORK_WARNING = re.compile(r"This process \(pid=([0-9]+)\) is multi-threaded")


def need(*distributions: str, among: Path = SERVERS) -> None:
    """Skips the test if a distribution could not be installed into an environment on this platform."""
    if not (among / "bin" / "python").exists():
        pytest.fail(f"there is no environment {among}: run `make venvs`", pytrace=False)
    folders = [str(folder) for folder in among.glob("lib/python*/site-packages")]
    installed = {found.name.lower() for found in importlib.metadata.distributions(path=folders)}
    if missing := set(distributions) - installed:
        pytest.skip(f"not installable on this platform: {', '.join(sorted(missing))}")


@contextmanager
def serving(command: str, folder: Path, **environment: str) -> Iterator[Service]:
    """Runs a server until it is stopped; clients start as soon as it listens."""
    service = Service(command, folder, environment)
    try:
        service.until(service.is_listening)
        service.clients.start()
        yield service
    except BaseException:
        service.kill()
        raise
    finally:
        service.clients.stop()
        service.reports.stop()


class Service:
    """A server, its clients, and the receiver of what its processes report."""

    def __init__(self, command: str, folder: Path, environment: dict[str, str]) -> None:
        """Starts all but the clients. `{socket}` in the command is where the server is to listen."""
        self._path = folder / "http"
        self.reports = Reports(folder / "dogstatsd")
        self.clients = Clients(self._path)
        self._stderr = folder / "stderr"
        settings = {
            "DD_DOGSTATSD_URL": self.reports.url,
            "DD_RUNTIME_METRICS_INTERVAL": "0.5",
            # Shown from wherever it comes.
            "PYTHONWARNINGS": "always:This process",
        }
        program, *arguments = shlex.split(
            command.format(socket=self._path, servers=SERVERS, examples=ROOT / "examples")
        )
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
        """Whether the server can be connected to."""
        with socket.socket(socket.AF_UNIX) as probe, suppress(FileNotFoundError, ConnectionRefusedError):
            probe.connect(str(self._path))
            return True
        return False

    def until(self, enough: Callable[[], bool]) -> None:
        """Waits until a condition holds; fails as soon as the server ends or a request fails."""
        deadline = time.monotonic() + TIMEOUT
        while not enough():
            assert self.process.poll() is None, self.stderr()
            assert self.clients.failures == [], self.summary()
            assert time.monotonic() < deadline, self.summary()
            time.sleep(0.05)

    def stop(self) -> int:
        """Stops the server as an operator would, waits for all its processes, and returns the exit status."""
        self.clients.stop()
        family = self.process.children(recursive=True)
        self.process.terminate()
        status = self.process.wait(TIMEOUT)
        _, alive = psutil.wait_procs(family, TIMEOUT)
        assert alive == [], self.stderr()
        self.reports.stop()
        assert OUR_ERRORS.findall(self.stderr()) == [], self.stderr()
        warned = set(map(int, FORK_WARNING.findall(self.stderr())))
        assert warned.isdisjoint(report.pid for report in self.reports), self.stderr()
        assert self.clients.failures == [], self.stderr()
        return int(status)

    def stderr(self) -> str:
        """What the server has written."""
        return self._stderr.read_text()

    def summary(self) -> str:
        """Which processes have answered and reported, and what the server has written."""
        reports = Counter(report.pid for report in list(self.reports))
        answers = f"answers from {[*self.clients.answered]}, failures {self.clients.failures}"
        return f"{answers}, reports from {dict(reports)}\n{self.stderr()}"

    def kill(self) -> None:
        """Kills every process that is left."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(TIMEOUT)


class Clients:
    """Some clients that send one request after the other, each on a new connection."""

    def __init__(self, path: Path) -> None:
        """Does not start yet; `path` is where the server listens."""
        self.answered: dict[int, float] = {}
        self.failures: list[str] = []
        self._path = path
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._keep_sending) for _ in range(4)]

    def start(self) -> None:
        """Starts."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stops once each client has its last answer."""
        self._stopping.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def _keep_sending(self) -> None:
        while not self._stopping.wait(0.03):
            try:
                status, body = ask(self._path)
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                return
            if status != 200:
                self.failures.append(f"{status} {body}")
                return
            for pid in map(int, re.findall("[0-9]+", body)):
                self.answered.setdefault(pid, time.monotonic())


def ask(path: Path) -> tuple[int, str]:
    """Sends one request and returns the status and body of the answer."""
    with closing(Connection(str(path))) as connection:
        connection.request("GET", "/", headers={"Host": "localhost", "Connection": "close"})
        response = connection.getresponse()
        return response.status, response.read().decode()


class Connection(http.client.HTTPConnection):
    """A connection over a Unix socket, whose path takes the place of the host."""

    def connect(self) -> None:
        """Connects."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(self.host)


@dataclass(frozen=True)
class Report:
    """A datagram: the process that sent it, as the kernel says, its values, and the sender's resident size then."""

    pid: int
    at: float
    runtime_id: str
    service: str
    values: dict[str, float]
    resident: int | None


Parsed = TypeVar("Parsed")


class Datagrams(list[Parsed]):
    """A receiver on a Unix socket that keeps each datagram, parsed with the id of the process that sent it."""

    def __init__(self, path: Path, parse: Callable[[str, int], Parsed]) -> None:
        """Starts to listen."""
        super().__init__()
        self._parse = parse
        self.url = f"unix://{path}"
        self._stopping = threading.Event()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.settimeout(0.1)
        self._socket.bind(str(path))
        self._thread = threading.Thread(target=self._receive)
        self._thread.start()

    def stop(self) -> None:
        """Stops once everything that was sent has been read."""
        self._stopping.set()
        self._thread.join()

    def _receive(self) -> None:
        with self._socket:
            while True:
                try:
                    payload, ancillary, _, _ = self._socket.recvmsg(65536, socket.CMSG_SPACE(12))
                except TimeoutError:
                    if self._stopping.is_set():
                        return
                else:
                    ((_, _, credentials),) = ancillary
                    pid, _, _ = struct.unpack("3i", credentials)
                    self.append(self._parse(payload.decode(), pid))


class Reports(Datagrams[Report]):
    """A receiver of what our processes report."""

    def __init__(self, path: Path) -> None:
        """Starts to listen."""
        super().__init__(path, report)


def report(payload: str, pid: int) -> Report:
    """Parses a datagram of this process."""
    resident = None
    with suppress(psutil.NoSuchProcess):
        resident = psutil.Process(pid).memory_info().rss
    lines = [LINE.fullmatch(line) for line in payload.splitlines()]
    matches = [line for line in lines if line is not None]
    assert len(matches) == len(lines), payload
    ((service, runtime_id),) = {
        tuple(re.findall("(?:^|,)(?:service|runtime-id):([^,]+)", match["tags"])) for match in matches
    }
    values = {match["name"].removeprefix(PREFIX): float(match["value"]) for match in matches}
    return Report(pid, time.monotonic(), runtime_id, service, values, resident)
