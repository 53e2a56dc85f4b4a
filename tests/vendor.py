"""The vendor's own receiver: runs it, and reads in what it says what it makes of each line."""

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
from serving import PATIENCE, need

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class PassedOn:
    """What the receiver makes of a line."""

    value: float
    type: str
    tags: frozenset[str]


class VendorsReceiver:
    """The receiver that the vendor ships for functions in its cloud, running, and what it has said."""

    def __init__(self, folder: Path) -> None:
        """Starts it on free ports, where it can reach no intake."""
        need("datadog-serverless-compat", among=PEERS)
        (shipped,) = PEERS.glob(
            "lib/python*/site-packages/datadog_serverless_compat/bin/linux-amd64/datadog-*"
        )
        program = shutil.copy(shipped, folder)
        os.chmod(program, 0o700)
        # A port that nothing listens on and nobody else can take.
        self._nowhere = socket.socket()
        self._nowhere.bind(("127.0.0.1", 0))
        self._process = psutil.Popen(
            [program],
            env={
                "ASCSVCRT_SPRING__APPLICATION__NAME": "app",
                "DD_API_KEY": "none",
                "DD_APM_RECEIVER_PORT": "0",
                "DD_DOGSTATSD_PORT": "0",
                "DD_LOG_LEVEL": "info,dogstatsd=trace",
                "DD_PROXY_HTTPS": f"http://127.0.0.1:{self._nowhere.getsockname()[1]}",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.said = ""
        self._questions = 0
        try:
            self.until("dogstatsd-udp: starting to listen")
            (listening,) = self._process.net_connections("udp")
        except BaseException:
            self.stop()
            raise
        self._address = ("127.0.0.1", listening.laddr.port)
        self.url = f"udp://127.0.0.1:{listening.laddr.port}"

    def until(self, *texts: str) -> None:
        """Listens to it until it has said all of this, and the line to its end."""
        deadline = time.monotonic() + PATIENCE
        while not all(text in self.said for text in texts) or self.said[-1] != "\n":
            readable, _, _ = select.select([self._process.stdout], [], [], deadline - time.monotonic())
            assert readable, f"it does not say {texts}:\n{self.said}"
            said = os.read(self._process.stdout.fileno(), 65536)
            assert said, f"it has ended:\n{self.said}"
            self.said += said.decode(errors="replace")

    def send(self, payload: str) -> None:
        """Sends a datagram."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(payload.encode(), self._address)

    def refuses(self, line: str) -> bool:
        """Whether it says that it does not take a line."""
        before = len(self.said)
        self.send(line)
        self._questions += 1
        self.send(f"question{self._questions}:1|g")
        # It takes one datagram after the other.
        self.until(f"Received message: question{self._questions}:1|g")
        assert f"Received message: {line} from" in self.said[before:]
        return bool(refused(self.said[before:]))

    def stop(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        self._nowhere.close()


def refused(said: str) -> list[str]:
    """What the receiver says of lines that it does not take."""
    return re.findall("(?:Failed to parse metric|Unsupported metric type).*", said)


def arrived(said: str, service: str) -> list[Line]:
    """The lines of a service that the receiver says have arrived."""
    lines = re.findall(r"^(?:.*Received message: )?([\w.]+:[\d.]+\|[dg]\|#\S+)$", said, re.MULTILINE)
    return [line for line in map(Line.of, lines) if f"service:{service}" in line.tags]


def passed_on(said: str, service: str) -> dict[str, PassedOn]:
    """What the receiver says it sends to the intake for a service, by name."""
    gauges = re.findall(
        r'Metric \{ metric: "([^"]+)", points: \[Point \{ timestamp: \d+, value: (\S+) \}\],'
        r" resources: \[\], kind: Gauge, tags: \[([^]]*)\]",
        said,
    )
    # Each of one value.
    distributions = re.findall(
        r'Sketch \{ metric: "([^"]+)", host: "", distributions: \[\], tags: \[([^]]*)\],'
        r" dogsketches: \[Dogsketch \{ ts: \d+, cnt: 1, min: ([^,]+), max: \3,",
        said,
    )
    found = [(name, PassedOn(float(value), "g", quoted(tags))) for name, value, tags in gauges]
    found += [(name, PassedOn(float(value), "d", quoted(tags))) for name, tags, value in distributions]
    of_service = [(name, what) for name, what in found if f"service:{service}" in what.tags]
    assert len(dict(of_service)) == len(of_service), "a name came twice"
    return dict(of_service)


def quoted(texts: str) -> frozenset[str]:
    """A list of strings as it is printed."""
    return frozenset(re.findall('"([^"]*)"', texts))
