"""A busy program in a process of its own, and the books that it and its receivers keep of what was sent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from agents import Agent

    Settings = Mapping[str, str]

PROGRAM = Path(__file__).parent / "programs" / "busy.py"
DEFAULTS = {"DD_RUNTIME_METRICS_INTERVAL": "0.2"}

# Seconds that anything may take on a slow machine.
PATIENCE = 30


@dataclass(frozen=True)
class Report:
    """What a program tells: how it stands with sending, what it has logged, how long it stood still at most."""

    status: dict[str, Any]
    said: list[tuple[str, str]]
    longest: float

    @property
    def metrics(self) -> int:
        """How many values it has written."""
        return int(self.status["metrics"])

    def texts(self, level: str) -> list[str]:
        """What it has logged at a level."""
        return [text for said_at, text in self.said if said_at == level]

    def levels(self) -> list[str]:
        """The levels of everything that it has logged for an operator to see."""
        return [level for level, _ in self.said if level != "DEBUG"]


@dataclass(frozen=True)
class Books:
    """What a program says it has written, sent and lost, and what its receivers have got."""

    metrics: int
    packets_sent: int
    bytes_sent: int
    packets_dropped: int
    bytes_dropped: int
    lines: int
    packets_got: int
    bytes_got: int

    @property
    def sent(self) -> tuple[int, int]:
        """Packets and bytes the kernel took."""
        return self.packets_sent, self.bytes_sent

    @property
    def dropped(self) -> tuple[int, int]:
        """Packets and bytes known to be lost."""
        return self.packets_dropped, self.bytes_dropped

    @property
    def got(self) -> tuple[int, int]:
        """Packets and bytes that have been read."""
        return self.packets_got, self.bytes_got

    def __sub__(self, earlier: Books) -> Books:
        """What has been added since."""
        return Books(*(now - then for now, then in zip(astuple(self), astuple(earlier), strict=True)))


@contextmanager
def running(program: Busy) -> Iterator[Busy]:
    """A program that is to end well."""
    try:
        yield program
        program.end()
    except BaseException:
        program.kill()
        raise


class Busy:
    """A running program that is measured. Its main thread does nothing but watch the time."""

    def __init__(self, url: str, settings: Settings, *wrapper: str, user: int | None = None) -> None:
        """Starts it with further settings, as another user or in a wrapper's hands if it is to be so."""
        arguments = [] if user is None else [str(user)]
        self._process = subprocess.Popen(
            [*wrapper, sys.executable, "-W", "error", str(PROGRAM), *arguments],
            env={**os.environ, **DEFAULTS, "DD_DOGSTATSD_URL": url, **settings},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.reports: list[Report] = []

    def order(self, what: str = "report", times: int = 1) -> Report:
        """Has the program do something so often, and gives what it tells then."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{what} {times}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, self._process.communicate()[1]
        facts = json.loads(line)
        said = [(level, text) for level, text in facts["said"]]
        self.reports.append(Report(facts["status"], said, facts["longest"]))
        return self.reports[-1]

    def until(self, enough: Callable[[Report], bool], *agents: Agent) -> Report:
        """Waits for what the program tells, while the receivers read."""
        deadline = time.monotonic() + PATIENCE
        while True:
            report = self.order()
            for agent in agents:
                agent.pump()
            if enough(report):
                return report
            assert time.monotonic() < deadline, report
            time.sleep(0.01)

    def flushes(self, count: int, *agents: Agent) -> Report:
        """Waits for so many more flushes, while the receivers read."""
        # Of a flush that found the interpreter taken, three of fifteen values are left out.
        goal = self.order().metrics + 15 * count
        return self.until(lambda report: report.metrics >= goal, *agents)

    def books(self, *agents: Agent) -> Books:
        """The books of a moment at which nothing is on its way; the receivers have read everything."""
        # What the program has sent lies in a receiver's socket at once: only a flush must not come between.
        while True:
            before = self.order().status
            for agent in agents:
                agent.pump()
            if self.order().status == before:
                break
        packets = [packet for agent in agents for packet in agent.packets]
        return Books(
            before["metrics"],
            before["packets_sent"],
            before["bytes_sent"],
            before["packets_dropped"],
            before["bytes_dropped"],
            sum(packet.count(b"\n") for packet in packets),
            len(packets),
            sum(map(len, packets)),
        )

    def sockets(self) -> set[str]:
        """The sockets that the program has open."""
        folder = Path(f"/proc/{self._process.pid}/fd")
        links = [os.readlink(entry) for entry in folder.iterdir()]
        return {link for link in links if link.startswith("socket:")}

    def end(self) -> None:
        """Lets the program come to its end, at which nothing may have gone wrong."""
        _, stderr = self._process.communicate(timeout=PATIENCE)
        assert (self._process.returncode, stderr) == (0, "")

    def kill(self) -> None:
        """Leaves nothing behind."""
        self._process.kill()
        self._process.communicate()
