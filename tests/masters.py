"""Masters of Gunicorn: what they report about their workers, and requests that last as long as a test wants."""

from __future__ import annotations

import signal
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
from gunicorns import Gunicorn
from serving import TIMEOUT

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path

# Requests whose answer tests/servers/held.py finishes only once it has their body.
HELD = ("/hold", "/spin", "/raise", "/grow")


@dataclass(frozen=True)
class States:
    """How many workers are in each state."""

    idle: int
    working: int


@contextmanager
def running_master(options: str, folder: Path, **environment: str) -> Iterator[Master]:
    """Runs a Gunicorn, which listens already, and kills all its processes at the end."""
    master = Master(options, folder, environment)
    try:
        master.until(master.is_listening)
        yield master
    finally:
        master.kill()
        master.lines.stop()
        master.statsd.stop()


class Master(Gunicorn):
    """A master and its workers; another master may take its place."""

    def __init__(self, options: str, folder: Path, environment: dict[str, str]) -> None:
        """Starts it."""
        settings = {"DD_RUNTIME_METRICS_INTERVAL": "0.2"}
        super().__init__(options, folder, settings | environment)
        self.master: psutil.Process = self.process

    def states(self, pid: int | None = None) -> list[States]:
        """What this master has reported about its workers, oldest first."""
        lines = [
            line for line in self.lines.named("gunicorn.workers") if line.pid == (pid or self.master.pid)
        ]
        idle, working = (
            [int(line.value) for line in lines if line.tag("state") == state] for state in ("idle", "working")
        )
        # The second line of the last pair may not have arrived yet.
        return [States(*pair) for pair in zip(idle, working, strict=False)]

    def checks(self, pid: int | None = None) -> list[int]:
        """The status of each service check of this master, oldest first."""
        lines = self.lines.named("gunicorn.is_running")
        return [int(line.value) for line in lines if line.pid == (pid or self.master.pid)]

    def until(self, enough: Callable[[], object]) -> None:
        """Waits until a condition holds; fails as soon as the master has ended."""
        deadline = time.monotonic() + TIMEOUT
        while not enough():
            assert self.master.status() != psutil.STATUS_ZOMBIE, self.stderr()
            assert time.monotonic() < deadline, f"{self.states()[-3:]}\n{self.stderr()}"
            time.sleep(0.02)

    def until_states(self, idle: int, working: int) -> None:
        """Waits until the master reports this."""
        self.until(lambda: self.states()[-1:] == [States(idle, working)])

    def next_states(self, number: int) -> list[States]:
        """What the master reports from now on."""
        before = len(self.states())
        self.until(lambda: len(self.states()) >= before + number)
        return self.states()[before : before + number]

    def request(self, target: str = "/") -> Request:
        """A request that is being served."""
        return Request(self.connection(), target)

    def ask(self, target: str = "/") -> int:
        """Sends a request; returns the id of the process that has answered it."""
        with self.request(target) as request:
            assert request.end() == b"done\n"
            return request.pid

    def let_other_users_send(self) -> None:
        """Lets processes of other users send, if they can see the folder."""
        (self.path.parent / "dogstatsd").chmod(0o777)

    def end(self, by: signal.Signals = signal.SIGTERM) -> int | None:
        """Ends the master by a signal, waits for all its processes, and returns the exit status."""
        family = self.master.children(recursive=True)
        self.master.send_signal(by)
        status = self.master.wait(TIMEOUT)
        _, alive = psutil.wait_procs(family, TIMEOUT)
        assert alive == [], self.stderr()
        self.lines.stop()
        return status

    def kill(self) -> None:
        """Kills every process that is left, whichever master it belongs to."""
        super().kill()
        self.master.wait(TIMEOUT)


class Request:
    """A request to the application in tests/servers/held.py whose answer has begun."""

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
        """Sends the body, so that the answer can end."""
        self._stream.write(b".")

    def end(self) -> bytes:
        """Waits for the rest of the answer."""
        return self._stream.read()

    def __enter__(self) -> Request:
        """Returns the request."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the connection."""
        self._stream.close()
