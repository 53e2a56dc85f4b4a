"""What arrives at a socket, parsed by the grammar of DogStatsD and not by our own code."""

from __future__ import annotations

import os
import re
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from catalogue_names import FIRST, PREFIX, assert_complete

from runtime_metrics import RuntimeMetrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

LINE = re.compile(
    r"(?P<name>[a-z0-9_.]+):(?P<value>[0-9]+(?:\.[0-9]+)?)\|(?P<type>[dg])\|#(?P<tags>[^|\n]+)"
    r"(?P<origin>(?:\|c:[a-z0-9-]+)?(?:\|e:[a-z0-9,-]+)?(?:\|card:[a-z]+)?)"
)


@dataclass(frozen=True)
class Flush:
    """The values of one flush by name without prefix, their type, their tags and their origin fields.

    Where a metric has tags of its own, they follow its name: `exceptions.uncaught{source:main}`.
    """

    values: dict[str, float]
    type: str
    tags: tuple[str, ...]
    origin: str
    at: float
    datagrams: tuple[bytes, ...]

    def __getitem__(self, name: str) -> float:
        """A value."""
        return self.values[name]

    def tag(self, key: str) -> str:
        """The value of a tag that occurs once."""
        (value,) = [tag.partition(":")[2] for tag in self.tags if tag.startswith(f"{key}:")]
        return value


class Flushes:
    """A receiver that returns the flushes of one process one after the other."""

    def __init__(self, receiver: socket.socket, url: str) -> None:
        """Takes over a bound socket; `url` is its address."""
        self.url = url
        self._receiver = receiver
        self._read_ahead: list[tuple[bytes, float]] = []

    @classmethod
    def udp(cls) -> Flushes:
        """Listens on a free port of this machine."""
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        # For many flushes before the first is read; Linux gives no more than it allows.
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        receiver.bind(("127.0.0.1", 0))
        return cls(receiver, f"udp://127.0.0.1:{receiver.getsockname()[1]}")

    @classmethod
    def unix(cls, path: str) -> Flushes:
        """Listens on a Unix datagram socket."""
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        receiver.bind(path)
        return cls(receiver, f"unix://{path}")

    def next(self, timeout: float = 20) -> Flush:
        """Waits for the next flush: all datagrams from one that starts with the first name to the next such."""
        flush = self.within(timeout)
        assert flush is not None, "no flush came in time"
        return flush

    def within(self, timeout: float) -> Flush | None:
        """The next flush, if one comes in time."""
        if (first := self._datagram(timeout)) is None:
            return None
        datagrams, at = [first[0]], first[1]
        # The rest of a flush left in the same system call.
        while (more := self._datagram(0.1)) is not None:
            if more[0].startswith(FIRST):
                self._read_ahead.append(more)
                break
            datagrams.append(more[0])
        return flush_of(datagrams, at)

    def rest(self) -> list[Flush]:
        """The flushes that have arrived already."""
        return list(iter(lambda: self.within(0.2), None))

    def datagrams(self) -> list[bytes]:
        """The datagrams that have arrived already, whatever they hold."""
        return [datagram for datagram, _ in iter(lambda: self._datagram(0.2), None)]

    def _datagram(self, timeout: float) -> tuple[bytes, float] | None:
        if self._read_ahead:
            return self._read_ahead.pop()
        self._receiver.settimeout(timeout)
        try:
            return self._receiver.recv(65536), time.monotonic()
        except TimeoutError:
            return None

    def __enter__(self) -> Flushes:
        """Gives the receiver itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the socket."""
        self._receiver.close()


def complete_flushes(datagrams: Iterable[bytes]) -> list[Flush]:
    """The flushes of one process; fails if a value is missing in one, or a datagram belongs to none."""
    gathered: list[list[bytes]] = []
    for datagram in datagrams:
        if datagram.startswith(FIRST):
            gathered.append([])
        assert gathered, f"outside of a flush: {datagram!r}"
        gathered[-1].append(datagram)
    flushes = [flush_of(parts, at=0) for parts in gathered]
    if flushes:
        assert_complete(*(flush.values for flush in flushes))
    return flushes


def flush_of(datagrams: list[bytes], at: float) -> Flush:
    """Parses the datagrams of one flush; `at` is when the first arrived."""
    payload = b"".join(datagrams).decode()
    assert payload.endswith("\n")
    lines = payload.splitlines()
    matches = [match for line in lines if (match := LINE.fullmatch(line))]
    assert len(matches) == len(lines), (
        f"{[line for line in lines if not LINE.fullmatch(line)]}: LINE in tests/receiving.py accepts only a number that"
        " is not negative, of type d or g, with tags; if the library may send these, extend it"
    )
    # The first line has no tags of its own.
    tags = matches[0]["tags"]
    assert [match[0] for match in matches if not f",{match['tags']}".endswith(f",{tags}")] == []

    def name(match: re.Match[str]) -> str:
        own = match["tags"][: -len(tags)].rstrip(",")
        return match["name"].removeprefix(PREFIX) + (f"{{{own}}}" if own else "")

    values = {name(match): float(match["value"]) for match in matches}
    assert len(values) == len(matches), "a name came twice in one flush"
    ((kind, origin),) = {(match["type"], match["origin"]) for match in matches}
    return Flush(values, kind, tuple(tags.split(",")), origin, at, tuple(datagrams))


def named(text: str) -> str:
    """A message of this process as it is logged."""
    return f"runtime-metrics[{os.getpid()}]: {text}"


def unnamed(logged: str) -> str:
    """Messages as they are logged, without what names us and the process."""
    return re.sub(r"runtime-metrics(\[[0-9]+\])?: ", "", logged)


def flushing(flushes: Flushes, level: Literal["standard", "detailed"]) -> Callable[[], Flush]:
    """Enables metrics here, without a tick for an hour; returns a function that flushes and returns what arrived."""
    RuntimeMetrics.enable(dogstatsd_url=flushes.url, flush_interval=3600, level=level)

    def flush() -> Flush:
        assert RuntimeMetrics.flush()
        return flushes.next()

    return flush
