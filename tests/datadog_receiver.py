"""Datadog's receiver of DogStatsD for serverless functions: runs it, and reads in its log what becomes of each line."""

from __future__ import annotations

import os
import re
import select
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
from peers import PEERS, Line
from serving import TIMEOUT, need

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Forwarded:
    """What the receiver sends to Datadog for a line."""

    value: float
    type: str
    tags: frozenset[str]


class DatadogReceiver:
    """The receiver that Datadog ships for serverless functions, running, and its log."""

    def __init__(self, folder: Path) -> None:
        """Starts it on free ports, without access to Datadog's intake."""
        need("datadog-serverless-compat", among=PEERS)
        (shipped,) = PEERS.glob(
            "lib/python*/site-packages/datadog_serverless_compat/bin/linux-amd64/datadog-*"
        )
        program = shutil.copy(shipped, folder)
        os.chmod(program, 0o700)
        # Nothing listens on this port, and no other process can.
        self._intake = socket.socket()
        self._intake.bind(("127.0.0.1", 0))
        self._process = psutil.Popen(
            [program],
            env={
                "ASCSVCRT_SPRING__APPLICATION__NAME": "app",
                "DD_API_KEY": "none",
                "DD_APM_RECEIVER_PORT": "0",
                "DD_DOGSTATSD_PORT": "0",
                "DD_LOG_LEVEL": "info,dogstatsd=trace",
                "DD_PROXY_HTTPS": f"http://127.0.0.1:{self._intake.getsockname()[1]}",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.log = ""
        self._probes = 0
        try:
            self.until("dogstatsd-udp: starting to listen")
            (listening,) = self._process.net_connections("udp")
        except BaseException:
            self.stop()
            raise
        self._address = ("127.0.0.1", listening.laddr.port)
        self.url = f"udp://127.0.0.1:{listening.laddr.port}"

    def until(self, *texts: str) -> None:
        """Reads the log until it contains all of these texts, and to the end of a line."""
        deadline = time.monotonic() + TIMEOUT
        while not all(text in self.log for text in texts) or self.log[-1] != "\n":
            readable, _, _ = select.select([self._process.stdout], [], [], deadline - time.monotonic())
            assert readable, f"not in the log: {texts}\n{self.log}"
            output = os.read(self._process.stdout.fileno(), 65536)
            assert output, f"it has ended:\n{self.log}"
            self.log += output.decode(errors="replace")

    def send(self, payload: str) -> None:
        """Sends a datagram."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(payload.encode(), self._address)

    def rejects(self, line: str) -> bool:
        """Whether it logs that it does not accept a line."""
        before = len(self.log)
        self.send(line)
        self._probes += 1
        self.send(f"probe{self._probes}:1|g")
        # It handles one datagram after the other.
        self.until(f"Received message: probe{self._probes}:1|g")
        assert f"Received message: {line} from" in self.log[before:]
        return bool(rejected(self.log[before:]))

    def stop(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        self._intake.close()


def rejected(log: str) -> list[str]:
    """What the log says about lines that the receiver does not accept."""
    return re.findall("(?:Failed to parse metric|Unsupported metric type).*", log)


def arrived(log: str, service: str) -> list[Line]:
    """The lines of a service that have arrived according to the log."""
    lines = re.findall(r"^(?:.*Received message: )?([\w.]+:[\d.]+\|[dg]\|#\S+)$", log, re.MULTILINE)
    return [line for line in map(Line.of, lines) if f"service:{service}" in line.tags]


def forwarded(log: str, service: str) -> dict[str, Forwarded]:
    """What the receiver sends to the intake for a service according to the log, by name."""
    gauges = re.findall(
        r'Metric \{ metric: "([^"]+)", points: \[Point \{ timestamp: \d+, value: (\S+) \}\],'
        r" resources: \[\], kind: Gauge, tags: \[([^]]*)\]",
        log,
    )
    # Each sketch holds one value.
    distributions = re.findall(
        r'Sketch \{ metric: "([^"]+)", host: "", distributions: \[\], tags: \[([^]]*)\],'
        r" dogsketches: \[Dogsketch \{ ts: \d+, cnt: 1, min: ([^,]+), max: \3,",
        log,
    )
    found = [(name, Forwarded(float(value), "g", quoted(tags))) for name, value, tags in gauges]
    found += [(name, Forwarded(float(value), "d", quoted(tags))) for name, tags, value in distributions]
    of_service = [(name, what) for name, what in found if f"service:{service}" in what.tags]
    assert len(dict(of_service)) == len(of_service), "a name came twice"
    return dict(of_service)


def quoted(texts: str) -> frozenset[str]:
    """The strings of a printed list."""
    return frozenset(re.findall('"([^"]*)"', texts))
