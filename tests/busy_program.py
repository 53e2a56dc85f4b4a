"""A busy program in a separate process, and what it and its receivers have counted of what was sent."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalogue_names import NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from agents import Agent

    Settings = Mapping[str, str]

PROGRAM = Path(__file__).parent / "programs" / "busy.py"
DEFAULTS = {"DD_RUNTIME_METRICS_INTERVAL": "0.2"}

# What a program writes at its exit.
LAST_SAMPLE_FAILS = re.compile(r"runtime-metrics\[[0-9]+\]: sending to .+ fails: ")

# How many seconds to wait for anything, on a slow machine too.
TIMEOUT = 30


@dataclass(frozen=True)
class Report:
    """What a program reports: its delivery status, what it has logged, and its longest pause in seconds."""

    status: dict[str, Any]
    logged: list[tuple[str, str]]
    longest_pause: float

    @property
    def metrics(self) -> int:
        """How many values it has written."""
        return int(self.status["metrics"])

    def texts(self, level: str) -> list[str]:
        """What it has logged at a level."""
        return [text for its_level, text in self.logged if its_level == level]

    def levels(self) -> list[str]:
        """The levels of everything that it has logged for an operator to see."""
        return [level for level, _ in self.logged if level != "DEBUG"]


@dataclass(frozen=True)
class Totals:
    """What a program has written, sent and lost according to its status, and what its receivers have read."""

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
        """Packets and bytes that the kernel accepted."""
        return self.packets_sent, self.bytes_sent

    @property
    def dropped(self) -> tuple[int, int]:
        """Packets and bytes known to be lost."""
        return self.packets_dropped, self.bytes_dropped

    @property
    def got(self) -> tuple[int, int]:
        """Packets and bytes that have been read."""
        return self.packets_got, self.bytes_got

    def __sub__(self, earlier: Totals) -> Totals:
        """What has been added since."""
        return Totals(*(now - then for now, then in zip(astuple(self), astuple(earlier), strict=True)))


@contextmanager
def running(program: BusyProgram) -> Iterator[BusyProgram]:
    """A program that must end without an error."""
    try:
        yield program
        program.end()
    except BaseException:
        program.kill()
        raise


class BusyProgram:
    """A running program that is measured. Its main thread does nothing but read the clock."""

    def __init__(self, url: str, settings: Settings, *wrapper: str, user: int | None = None) -> None:
        """Starts it with further settings, perhaps under a wrapper's command or as another user."""
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

    def command(self, what: str = "report", times: int = 1) -> Report:
        """Has the program do something so many times, and returns what it reports then."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{what} {times}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, self._process.communicate()[1]
        facts = json.loads(line)
        # Without our name and the process, and without the line that only says what is sent where.
        logged = [(level, text.partition("]: ")[2]) for level, text in facts["logged"]]
        logged = [line for line in logged if not line[1].startswith("runtime metrics are sent")]
        self.reports.append(Report(facts["status"], logged, facts["longest_pause"]))
        return self.reports[-1]

    def until(self, enough: Callable[[Report], bool], *agents: Agent) -> Report:
        """Waits until a report meets a condition, while the receivers read."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            report = self.command()
            for agent in agents:
                agent.drain()
            if enough(report):
                return report
            assert time.monotonic() < deadline, report
            time.sleep(0.01)

    def flushes(self, count: int, *agents: Agent) -> Report:
        """Waits for so many more flushes, while the receivers read."""
        # A flush during which the interpreter does not answer holds fewer: then this waits for more of them.
        goal = self.command().metrics + len(NAMES) * count
        return self.until(lambda report: report.metrics >= goal, *agents)

    def totals(self, *agents: Agent) -> Totals:
        """The totals of a moment at which nothing is in transit and the receivers have read everything."""
        # What the program has sent is in a receiver's socket at once; only a flush must not happen in between.
        while True:
            before = self.command().status
            for agent in agents:
                agent.drain()
            if self.command().status == before:
                break
        packets = [packet for agent in agents for packet in agent.packets]
        return Totals(
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
        links = set()
        for descriptor in Path(f"/proc/{self._process.pid}/fd").iterdir():
            # The program opens and closes files all the time, so one that was listed may be closed by now.
            with suppress(FileNotFoundError):
                links.add(os.readlink(descriptor))
        return {link for link in links if link.startswith("socket:")}

    def end(self) -> None:
        """Lets the program end, and fails if anything went wrong."""
        _, stderr = self._process.communicate(timeout=TIMEOUT)
        # Its receiver may have gone before its last sample is sent.
        errors = [line for line in stderr.splitlines() if not LAST_SAMPLE_FAILS.match(line)]
        assert (self._process.returncode, errors) == (0, [])

    def kill(self) -> None:
        """Kills the program."""
        self._process.kill()
        self._process.communicate()
