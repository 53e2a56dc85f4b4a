"""The local DogStatsD receiver: datagrams in, lines out, taken apart.

It is stricter than the Datadog Agent: it stands where somebody looks at what a program sends, so a line that
only lenient receivers take counts as malformed. Events are passed over, having no number.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

# Room for what arrives while a terminal draws, and for the largest datagram a Unix socket carries.
BUFFER_BYTES = 1 << 20
DATAGRAM_BYTES = 1 << 18

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.]*")
NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
TYPES = frozenset({"c", "g", "d", "h", "ms", "s"})
ANYWHERE = {
    "#": re.compile(r"[^,]+(,[^,]+)*"),
    "c:": re.compile(r"[A-Za-z0-9,-]+"),
    "e:": re.compile(r"[a-z0-9,-]+"),
    "card:": re.compile(r"none|low|orchestrator|high"),
}
FIELDS = ANYWHERE | {"@": re.compile(r"1(\.0+)?|0\.[0-9]*[1-9][0-9]*"), "T": re.compile(r"[0-9]+")}
CHECK = "_sc"
CHECK_STATES = {"0": 0.0, "1": 1.0, "2": 2.0, "3": 3.0}
CHECK_FIELDS = ANYWHERE | {"d:": re.compile(r"[0-9]+"), "h:": re.compile(r".+"), "m:": re.compile(r".*")}


@dataclass(frozen=True)
class Line:
    """The samples of one line: values of one metric, or the state of a service check (type `_sc`).

    The values of a set (type `s`) are text, all others finite numbers. A rate below 1 says which part of what was
    observed they are.
    """

    name: str
    values: tuple[float, ...] | tuple[str, ...]
    type: str
    tags: tuple[str, ...]
    rate: float = 1.0


class MalformedLine(ValueError):  # noqa: N818 - it is a fact about a line, not an error of the program
    """A line outside the grammar."""

    def __init__(self, line: bytes, reason: str) -> None:
        """Takes the line as it came and what is wrong with it."""
        shown = ascii(line[:200])
        super().__init__(f"{reason}: {shown}")
        self.line = line
        self.reason = reason


def decode(payload: bytes, malformed: list[MalformedLine] | None = None) -> Iterator[Line]:
    """Yields the lines of a datagram.

    Args:
        payload: The datagram: lines separated by a newline, which may also stand at the end.
        malformed: Receives the malformed lines. The lines around them are decoded all the same.

    Raises:
        MalformedLine: At the first malformed line, if there is no list to receive it.
    """
    for line in payload.removesuffix(b"\n").split(b"\n"):
        try:
            decoded = _decoded(line)
        except MalformedLine as error:
            if malformed is None:
                raise
            malformed.append(error)
        else:
            if decoded is not None:
                yield decoded


class Receiver:
    """A bound datagram socket. Close it, or use it in a `with` statement."""

    def __init__(self, bound: socket.socket, address: str) -> None:
        """Takes over a bound socket; `udp` and `unix` make one."""
        self.address = address
        """What `DD_DOGSTATSD_URL` must be for the samples to come here."""
        self.malformed: list[MalformedLine] = []
        """The first malformed lines, at most 100."""
        self.malformed_count = 0
        self._socket = bound

    @classmethod
    def udp(cls, host: str = "127.0.0.1", port: int = 0) -> Receiver:
        """Binds a UDP socket; port 0 lets the system choose one.

        Raises:
            OSError: The port is taken, or the host is not an address of this machine.
        """
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        # A name with addresses of both kinds, such as localhost: senders try IPv4 first.
        family, kind, protocol, _, where = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        bound = _bound(socket.socket(family, kind, protocol), where)
        host, port = bound.getsockname()[:2]
        return cls(bound, f"udp://[{host}]:{port}" if ":" in host else f"udp://{host}:{port}")

    @classmethod
    def unix(cls, path: str) -> Receiver:
        """Binds a Unix datagram socket, whose file is removed at the end.

        Raises:
            OSError: The file exists, its directory does not, or the platform has no such sockets.
        """
        if not hasattr(socket, "AF_UNIX"):
            raise OSError("this platform has no Unix sockets")
        path = os.path.abspath(path)
        return cls(_bound(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), path), f"unix://{path}")

    def lines(self, timeout: float) -> Iterator[Line]:
        """Yields lines as they arrive, until `timeout` seconds have passed."""
        deadline = time.monotonic() + timeout
        while (remaining := deadline - time.monotonic()) > 0:
            yield from self._receive(remaining) or ()

    def pending(self) -> Iterator[Line]:
        """Yields what has already arrived, without waiting."""
        while (lines := self._receive(0)) is not None:
            yield from lines

    def close(self) -> None:
        """Closes the socket and removes its file."""
        self._socket.close()
        if self.address.startswith("unix://"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.address.removeprefix("unix://"))

    def __enter__(self) -> Receiver:
        """Gives the receiver itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the receiver."""
        self.close()

    def _receive(self, timeout: float) -> list[Line] | None:
        """The lines of one datagram; None if none came in time."""
        self._socket.settimeout(timeout)
        try:
            payload = self._socket.recv(DATAGRAM_BYTES)
        except (BlockingIOError, TimeoutError):
            return None
        malformed: list[MalformedLine] = []
        lines = list(decode(payload, malformed))
        self.malformed_count += len(malformed)
        self.malformed += malformed[: 100 - len(self.malformed)]
        return lines


def _bound(unbound: socket.socket, where: object) -> socket.socket:
    try:
        unbound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        unbound.bind(where)  # type: ignore[arg-type]
    except BaseException:
        unbound.close()
        raise
    return unbound


def _decoded(line: bytes) -> Line | None:
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise MalformedLine(line, "not UTF-8") from None
    # What is shown on a terminal must not be able to command it.
    if not text.isprintable():
        raise MalformedLine(line, "a character that cannot be printed")
    if text.startswith("_e{"):
        return None
    head, *rest = text.split("|")
    if head == CHECK:
        return _check(line, rest)
    name, *values = head.split(":")
    if not NAME.fullmatch(name):
        raise MalformedLine(line, "not a metric name")
    if not rest or rest[0] not in TYPES:
        raise MalformedLine(line, "not a metric type")
    kind, *rest = rest
    fields = _fields(line, rest, FIELDS)
    if not values:
        raise MalformedLine(line, "no value")
    tags, rate = _tags(fields), float(fields.get("@", 1))
    if kind == "s" and all(values):
        return Line(name, tuple(values), kind, tags, rate)
    return Line(name, tuple(_number(line, value) for value in values), kind, tags, rate)


def _check(line: bytes, parts: list[str]) -> Line:
    name, state, *rest = parts if len(parts) >= 2 else ("", "")
    if not NAME.fullmatch(name):
        raise MalformedLine(line, "not the name of a service check")
    if state not in CHECK_STATES:
        raise MalformedLine(line, "not the state of a service check")
    return Line(name, (CHECK_STATES[state],), CHECK, _tags(_fields(line, rest, CHECK_FIELDS)))


def _number(line: bytes, text: str) -> float:
    if not NUMBER.fullmatch(text) or not math.isfinite(value := float(text)):
        raise MalformedLine(line, "not a finite decimal number")
    return value


def _fields(line: bytes, texts: list[str], known: dict[str, re.Pattern[str]]) -> dict[str, str]:
    """What stands behind each prefix."""
    fields: dict[str, str] = {}
    for text in texts:
        prefix = next((prefix for prefix in known if text.startswith(prefix)), None)
        if prefix is None:
            raise MalformedLine(line, "an unknown field")
        if prefix in fields:
            raise MalformedLine(line, f"two fields {prefix}")
        fields[prefix] = text.removeprefix(prefix)
        if not known[prefix].fullmatch(fields[prefix]):
            raise MalformedLine(line, f"not a valid field {prefix}")
    return fields


def _tags(fields: dict[str, str]) -> tuple[str, ...]:
    return tuple(fields["#"].split(",")) if "#" in fields else ()
