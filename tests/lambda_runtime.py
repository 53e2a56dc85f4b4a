"""A simulation of AWS Lambda: the real runtime with a Runtime API of ours, frozen between invocations.

Everything is on one timeline: the requests to the Runtime API, what is done to the process, and each datagram, at the
time at which the kernel has received it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from catalogue_names import LEVEL_VARIABLE
from namespaces import Namespace, need_tools
from receiving import Flush, flush_of
from runtime_api import Invocation, RuntimeApi
from serving import ROOT, TIMEOUT, need

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LAMBDA = Path(os.environ.get("RUNTIME_METRICS_LAMBDA", ROOT / ".lambda"))
PYTHON = LAMBDA / "bin" / "python"
FUNCTIONS = ROOT / "tests" / "functions"

# The port that the extension listens on.
PORT = 8125

SO_TIMESTAMPNS = 35
TIMESTAMP = struct.Struct("@ll")


@dataclass(frozen=True)
class Event:
    """Something on the timeline, at a time as time.time() counts."""

    at: float
    # "datagram", a request to the Runtime API, or what is done to the process: "freeze", "thaw", "kill".
    what: str
    request: str
    body: bytes


@dataclass
class Timeline(list[Event]):
    """What has happened, in the order in which it was recorded."""

    changed: threading.Condition = field(default_factory=threading.Condition)

    def record(self, what: str, request: str = "", body: bytes = b"", at: float | None = None) -> None:
        """Adds an event; it has happened now unless another time is given."""
        with self.changed:
            self.append(Event(time.time() if at is None else at, what, request, body))
            self.changed.notify_all()

    def count(self, what: str) -> int:  # type: ignore[override]
        """How often something has happened."""
        return sum(event.what == what for event in self)

    def until(self, happened: Callable[[], bool]) -> bool:
        """Waits until a condition holds; returns whether it does."""
        with self.changed:
            return self.changed.wait_for(happened, TIMEOUT)


@dataclass(frozen=True)
class Answer:
    """The outcome of an invocation."""

    request: str
    # "response" or "error".
    kind: str
    body: Any
    # From when the event was sent until the answer arrived.
    seconds: float
    # What arrived meanwhile.
    datagrams: tuple[bytes, ...]

    @property
    def flush(self) -> Flush:
        """The one set of metrics."""
        return flush_of(list(self.datagrams), at=0)


class Receiver:
    """A UDP socket, and each datagram on the timeline."""

    def __init__(self, receiver: socket.socket, sender: socket.socket, timeline: Timeline) -> None:
        """Takes over a bound socket, and one that sends to it."""
        receiver.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._receiver, self._sender, self._timeline = receiver, sender, timeline
        self._marks = 0
        self._seen = 0
        self._thread = threading.Thread(target=self._receive, daemon=True)
        self._thread.start()

    def settle(self) -> None:
        """Waits until all that has been sent so far is on the timeline."""
        self._marks += 1
        self._sender.sendto(b"mark", self._receiver.getsockname())
        assert self._timeline.until(lambda: self._seen >= self._marks)

    def close(self) -> None:
        """Ends."""
        self._sender.sendto(b"end", self._receiver.getsockname())
        self._thread.join()
        self._receiver.close()
        self._sender.close()

    def _receive(self) -> None:
        while True:
            payload, ancillary, _, _ = self._receiver.recvmsg(65536, socket.CMSG_SPACE(TIMESTAMP.size))
            ((_, _, timestamp),) = ancillary
            if payload == b"end":
                return
            if payload == b"mark":
                with self._timeline.changed:
                    self._seen += 1
                    self._timeline.changed.notify_all()
                continue
            seconds, nanoseconds = TIMESTAMP.unpack(timestamp)
            self._timeline.record("datagram", body=payload, at=seconds + nanoseconds / 1e9)


class Environment:
    """An execution environment: one process of the runtime, in a separate network namespace."""

    def __init__(
        self,
        handler: str,
        folder: Path,
        variables: dict[str, str],
        *,
        extension: bool = True,
        initialization: str = "on-demand",
        stored_for: float = 0,
        name: str = "coffee",
        functions: Path = FUNCTIONS,
        within: tuple[str, ...] = (),
        options: tuple[str, ...] = (),
    ) -> None:
        """Starts it; `within` is a command that runs another, `stored_for` the age of a snapshot in seconds."""
        need("awslambdaric", among=LAMBDA)
        need_tools()
        self.timeline = Timeline()
        self._network = Namespace()
        if not self._network.exists:
            self._network.close()
            pytest.skip("needs the right to make network namespaces")
        listener, receiver, sender = self._network.inside(opened)
        self._receiver = Receiver(receiver, sender, self.timeline)
        self._stored_for = stored_for
        self._api = RuntimeApi(listener, name, self._record)
        self._serving = threading.Thread(target=self._api.serve_forever, args=(0.02,))
        self._serving.start()
        self._invocations = 0
        self.folder = folder
        present = folder / "datadog-agent"
        if extension:
            present.touch()
        else:
            present.unlink(missing_ok=True)
        self.variables = {
            "PATH": os.environ["PATH"],
            "AWS_EXECUTION_ENV": "AWS_Lambda_python3.12",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
            "AWS_LAMBDA_FUNCTION_NAME": name,
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_INITIALIZATION_TYPE": initialization,
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{listener.getsockname()[1]}",
            "AWS_REGION": "eu-central-1",
            # Otherwise it logs each import that takes a few milliseconds, such as ours.
            "DD_COLD_START_TRACING": "false",
            "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
            "DD_RUNTIME_METRICS_LAMBDA_EXTENSION": str(present),
            "LAMBDA_TASK_ROOT": str(functions),
            "PYTHONDONTWRITEBYTECODE": "1",
            "_HANDLER": handler,
        }
        if level := os.environ.get(LEVEL_VARIABLE):
            self.variables[LEVEL_VARIABLE] = level
        self.variables |= variables
        self.began = time.time()
        with (folder / "stdout").open("wb") as stdout, (folder / "stderr").open("wb") as stderr:
            self.process = subprocess.Popen(
                [*self._network.entering, *within, PYTHON, *options, "-m", "awslambdaric", handler],
                cwd=functions,
                env=self.variables,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )

    def init(self) -> float:
        """Waits until it asks for its first event, or ends; returns how long that took."""
        self._await("next", 1)
        return next(event.at for event in self.timeline if event.what == "next") - self.began

    def invoke(
        self, event: object = None, *, request: str = "", frozen: float = 0, thawed: float = 0
    ) -> Answer:
        """Has an event served, after a freeze of so many seconds and so many more after the thaw."""
        self._await("next", self._invocations + 1)
        self._receiver.settle()
        if frozen:
            self.freeze()
            time.sleep(frozen)
            self.thaw()
            time.sleep(thawed)
        self._invocations += 1
        request = request or f"request-{self._invocations}"
        begin = len(self.timeline)
        self._api.invocations.put(Invocation(request, json.dumps(event).encode()))
        # The invocation is over when the next event is asked for.
        self._await("next", self._invocations + 1)
        self._receiver.settle()
        return self._answer(request, self.timeline[begin:])

    def start_invocation(self, event: object, deadline: float = 60) -> None:
        """Sends an event, and does not wait for the answer."""
        self._await("next", self._invocations + 1)
        self._invocations += 1
        request = f"request-{self._invocations}"
        self._api.invocations.put(Invocation(request, json.dumps(event).encode(), deadline))
        assert self.timeline.until(lambda: self.timeline.count("invoke") == self._invocations)

    def invoke_until_killed(self, event: object, *, deadline: float) -> None:
        """Sends an event and kills the process at the deadline, as the platform does."""
        self.start_invocation(event, deadline)
        time.sleep(deadline)
        self.kill()

    def datagrams(self) -> list[bytes]:
        """What has arrived so far."""
        self._receiver.settle()
        return [event.body for event in self.timeline if event.what == "datagram"]

    def freeze(self) -> None:
        """Stops the process, and waits until it has stopped."""
        self.process.send_signal(signal.SIGSTOP)
        _, status = os.waitpid(self.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        self._receiver.settle()
        self.timeline.record("freeze")

    def thaw(self) -> None:
        """Continues the process."""
        self.timeline.record("thaw")
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kills the process, as the platform does."""
        self.timeline.record("kill")
        self.process.kill()
        self.process.wait(TIMEOUT)
        self._receiver.settle()

    def stray(self) -> list[Event]:
        """Datagrams that were sent outside of invocations: not between an event and its answer."""
        self._receiver.settle()
        windows = [
            (invoked.at, answered.at)
            for invoked in self.timeline
            if invoked.what == "invoke"
            for answered in self.timeline
            if answered.what in ("response", "error") and answered.request == invoked.request
        ]
        return [
            event
            for event in self.timeline
            if event.what == "datagram" and not any(begin < event.at < end for begin, end in windows)
        ]

    def threads(self) -> list[str]:
        """The names of its threads."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return sorted((task / "comm").read_text().strip() for task in tasks)

    def output(self) -> str:
        """The output of the process, which contains the log of the function."""
        return (self.folder / "stdout").read_text() + (self.folder / "stderr").read_text()

    def close(self) -> None:
        """Ends the process and the network namespace."""
        self.process.kill()
        self.process.wait(TIMEOUT)
        self._receiver.close()
        self._api.shutdown()
        self._serving.join()
        self._api.server_close()
        self._network.close()

    def _record(self, what: str, request: str, body: bytes) -> None:
        self.timeline.record(what, request, body)
        if what == "restore":
            # The request is answered when the snapshot is restored.
            time.sleep(self._stored_for)

    def _await(self, what: str, times: int) -> None:
        def happened() -> bool:
            return self.timeline.count(what) >= times or self.timeline.count("init error") > 0

        assert self.timeline.until(happened), self.output()
        assert self.timeline.count(what) >= times, self.output()

    def _answer(self, request: str, events: list[Event]) -> Answer:
        (invoked,) = [event for event in events if event.what == "invoke"]
        (answered,) = [event for event in events if event.what in ("response", "error")]
        assert (invoked.request, answered.request) == (request, request)
        datagrams = [
            event.body for event in events if event.what == "datagram" and invoked.at < event.at < answered.at
        ]
        return Answer(
            request, answered.what, json.loads(answered.body), answered.at - invoked.at, tuple(datagrams)
        )


def opened() -> tuple[socket.socket, socket.socket, socket.socket]:
    """Sockets on which the Runtime API and the extension listen, and one that sends to the extension."""
    listener = socket.create_server(("127.0.0.1", 0))
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("127.0.0.1", PORT))
    return listener, receiver, socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


@contextmanager
def environment(
    handler: str, folder: Path, variables: dict[str, str] | None = None, **options: Any
) -> Iterator[Environment]:
    """Runs a function for the duration of a block."""
    folder.mkdir(exist_ok=True)
    running = Environment(handler, folder, variables or {}, **options)
    try:
        yield running
    finally:
        running.close()


def init_error(handler: str, folder: Path, variables: dict[str, str]) -> dict[str, Any]:
    """What a function reports whose initialisation fails."""
    with environment(handler, folder, variables) as running:
        assert running.timeline.until(lambda: running.timeline.count("init error") > 0), running.output()
        running.process.wait(TIMEOUT)
        (reported,) = [event for event in running.timeline if event.what == "init error"]
        assert running.stray() == []
        error: dict[str, Any] = json.loads(reported.body)
        return error
