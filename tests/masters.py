"""Gunicorn's masters: what they say of their workers, and requests that last as long as a test wants."""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
from gunicorns import Gunicorn
from serving import PATIENCE

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path

# The requests that tests/servers/held.py does not answer to the end before it gets their body.
HELD = ("/hold", "/spin", "/raise", "/grow")


@dataclass(frozen=True)
class States:
    """How many workers there are in each state."""

    idle: int
    working: int


@contextmanager
def leading(options: str, folder: Path, **environment: str) -> Iterator[Master]:
    """Runs a Gunicorn as soon as it listens, and leaves nothing of it behind."""
    master = Master(options, folder, environment)
    try:
        master.until(master.is_listening)
        yield master
    finally:
        master.kill()
        master.lines.stop()
        master.own.stop()


class Master(Gunicorn):
    """A master and its workers, which may be succeeded by another."""

    def __init__(self, options: str, folder: Path, environment: dict[str, str]) -> None:
        """Starts it."""
        # Gunicorn keeps a file there by the name of the application.
        settings = {"DD_RUNTIME_METRICS_INTERVAL": "0.2", "TMPDIR": str(folder)}
        super().__init__(options, folder, settings | environment)
        self._first = self.process
        self.leader: psutil.Process = self.process

    def states(self, pid: int | None = None) -> list[States]:
        """What this master has said about its workers, oldest first."""
        lines = [
            line for line in self.lines.named("gunicorn.workers") if line.pid == (pid or self.leader.pid)
        ]
        idle, working = (
            [int(line.value) for line in lines if line.tag("state") == state] for state in ("idle", "working")
        )
        # What arrives between the two is complete in a moment.
        return [States(*pair) for pair in zip(idle, working, strict=False)]

    def checks(self, pid: int | None = None) -> list[int]:
        """What this master has said about itself, oldest first."""
        lines = self.lines.named("gunicorn.is_running")
        return [int(line.value) for line in lines if line.pid == (pid or self.leader.pid)]

    def until(self, enough: Callable[[], object]) -> None:
        """Waits, as long as the master runs."""
        deadline = time.monotonic() + PATIENCE
        while not enough():
            assert self.leader.status() != psutil.STATUS_ZOMBIE, self.stderr()
            assert time.monotonic() < deadline, f"{self.states()[-3:]}\n{self.stderr()}"
            time.sleep(0.02)

    def until_states(self, idle: int, working: int) -> None:
        """Waits until the master says so."""
        self.until(lambda: self.states()[-1:] == [States(idle, working)])

    def next_states(self, number: int) -> list[States]:
        """What the master says from now on."""
        before = len(self.states())
        self.until(lambda: len(self.states()) >= before + number)
        return self.states()[before : before + number]

    def request(self, target: str = "/") -> Request:
        """A request that is being served."""
        return Request(self.connection(), target)

    def ask(self, target: str = "/") -> int:
        """The process that has answered a request."""
        with self.request(target) as request:
            assert request.end() == b"done\n"
            return request.pid

    def let_everybody_send(self) -> None:
        """Lets processes of other users send, if they can see the folder."""
        (self.path.parent / "dogstatsd").chmod(0o777)

    def end(self, by: signal.Signals = signal.SIGTERM) -> int | None:
        """Ends the master by a signal, waits for all its processes, and gives the exit status."""
        family = self.leader.children(recursive=True)
        self.leader.send_signal(by)
        status = self.leader.wait(PATIENCE)
        _, alive = psutil.wait_procs(family, PATIENCE)
        assert alive == [], self.stderr()
        self.lines.stop()
        return status

    def kill(self) -> None:
        """Leaves no process behind, whoever leads."""
        with suppress(ProcessLookupError):
            os.killpg(self._first.pid, signal.SIGKILL)
        self.leader.wait(PATIENCE)


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
