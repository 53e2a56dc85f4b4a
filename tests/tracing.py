"""What arrives from processes with ddtrace: their spans at the APM test agent, and the metrics of both libraries."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from catalogue_names import PREFIX
from peers import PEERS
from ports import reserved_tcp_port
from serving import TIMEOUT, Datagrams

if TYPE_CHECKING:
    from pathlib import Path

LINE = re.compile(r"(?P<name>[\w.]+):[^|]+\|[a-z]+\|#(?P<tags>[^|]*)(?:\|.*)?")


@dataclass(frozen=True)
class Line:
    """A runtime metric as it arrived."""

    pid: int
    name: str
    tags: dict[str, str]

    @property
    def is_ours(self) -> bool:
        """Whether it is not from ddtrace, whose lines have the tag tracer_version."""
        return "tracer_version" not in self.tags


@dataclass(frozen=True)
class Span:
    """The first span of its chunk: only these contain the id of their process."""

    pid: int
    runtime_id: str
    name: str
    # The service of the process, even where an integration has one of its own.
    service: str
    env: str | None
    version: str | None


class Metrics(Datagrams[list[Line]]):
    """A receiver of the runtime metrics of both libraries."""

    def __init__(self, path: Path) -> None:
        """Starts to listen."""
        super().__init__(path, lines)

    @property
    def ours(self) -> list[Line]:
        """What we have sent so far."""
        return [line for line in self.all() if line.is_ours]

    @property
    def theirs(self) -> list[Line]:
        """What ddtrace has sent so far."""
        return [line for line in self.all() if not line.is_ours]

    def all(self) -> list[Line]:
        """What has arrived so far, in order."""
        return [line for datagram in list(self) for line in datagram]


def lines(payload: str, pid: int) -> list[Line]:
    """Parses a datagram: its runtime metrics, without the client telemetry of ddtrace."""
    matches = [LINE.fullmatch(line) for line in payload.splitlines()]
    assert None not in matches, payload
    return [
        Line(
            pid,
            match["name"].removeprefix(PREFIX),
            dict(tag.partition(":")[::2] for tag in match["tags"].split(",")),
        )
        for match in matches
        if match is not None and match["name"].startswith(PREFIX)
    ]


class TraceAgent:
    """The APM test agent: keeps the traces that it gets."""

    def __init__(self, folder: Path) -> None:
        """Starts it, and waits until it answers."""
        self._ports = ExitStack()
        port, *others = [self._ports.enter_context(reserved_tcp_port()) for _ in range(3)]
        self.url = f"http://127.0.0.1:{port}"
        self._output = folder / "agent.txt"
        command = (
            f"ddapm-test-agent --host 127.0.0.1 --port {port} --otlp-http-port {{}} --otlp-grpc-port {{}}"
        )
        program, *arguments = command.format(*others).split()
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [PEERS / "bin" / program, *arguments],
                cwd=folder,
                env={"PATH": os.defpath},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + TIMEOUT
        while not self._answers():
            assert self._process.poll() is None, self._output.read_text()
            assert time.monotonic() < deadline, self._output.read_text()
            time.sleep(0.05)

    def clear(self) -> None:
        """Discards what has arrived so far."""
        self._ask("/test/session/clear")

    def spans(self) -> list[Span]:
        """The spans that contain the id of their process, in no order."""
        traces = json.loads(self._ask("/test/session/traces"))
        return [span_of(fields) for trace in traces for fields in trace if "runtime-id" in fields["meta"]]

    def stop(self) -> None:
        """Ends it; it must not have ended before."""
        status = self._process.poll()
        self._process.kill()
        self._process.wait(TIMEOUT)
        self._ports.close()
        assert status is None, self._output.read_text()

    def _answers(self) -> bool:
        with suppress(URLError):
            self._ask("/info")
            return True
        return False

    def _ask(self, path: str) -> bytes:
        with build_opener(ProxyHandler({})).open(self.url + path, timeout=TIMEOUT) as response:
            return bytes(response.read())


def span_of(fields: dict[str, Any]) -> Span:
    """Parses a span."""
    meta = fields["meta"]
    return Span(
        int(fields["metrics"]["process_id"]),
        meta["runtime-id"],
        fields["name"],
        meta.get("_dd.base_service") or fields["service"],
        meta.get("env"),
        meta.get("version"),
    )
