"""The lines of DogStatsD datagrams, parsed.

This parser is stricter than the Datadog Agent: it is there to check what a program sends, so a line that only lenient
receivers accept counts as malformed. Events are skipped, as they carry no number.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.]*")
NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
TYPES = frozenset({"c", "g", "d", "h", "ms", "s"})
# The fields that metrics and service checks share, by prefix.
COMMON_FIELDS = {
    "#": re.compile(r"[^,]+(,[^,]+)*"),
    "c:": re.compile(r"[A-Za-z0-9,-]+"),
    "e:": re.compile(r"[a-z0-9,-]+"),
    "card:": re.compile(r"none|low|orchestrator|high"),
}
FIELDS = COMMON_FIELDS | {"@": re.compile(r"1(\.0+)?|0\.[0-9]*[1-9][0-9]*"), "T": re.compile(r"[0-9]+")}
CHECK = "_sc"
CHECK_STATES = {"0": 0.0, "1": 1.0, "2": 2.0, "3": 3.0}
CHECK_FIELDS = COMMON_FIELDS | {
    "d:": re.compile(r"[0-9]+"),
    "h:": re.compile(r".+"),
    "m:": re.compile(r".*"),
}


@dataclass(frozen=True)
class Line:
    """The samples of one line: values of one metric, or the state of a service check (type `_sc`).

    The values of a set (type `s`) are text, all others finite numbers. A sample rate below 1 says what share of the
    observations they are.
    """

    name: str
    values: tuple[float, ...] | tuple[str, ...]
    type: str
    tags: tuple[str, ...]
    rate: float = 1.0


class MalformedLine(ValueError):  # noqa: N818 - it is a fact about a line, not an error of the program
    """A line outside the grammar."""

    def __init__(self, line: bytes, reason: str) -> None:
        """Takes the line as received and what is wrong with it."""
        shown = ascii(line[:200])
        super().__init__(f"{reason}: {shown}")
        self.line = line
        self.reason = reason


def decode(payload: bytes, malformed: list[MalformedLine] | None = None) -> Iterator[Line]:
    """Yields the lines of a datagram.

    Args:
        payload: The datagram: lines separated by newlines; the last may end in one.
        malformed: Collects the malformed lines; the lines around them are still decoded.

    Raises:
        MalformedLine: At the first malformed line, if `malformed` is None.
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


def _decoded(line: bytes) -> Line | None:
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise MalformedLine(line, "not UTF-8") from None
    # It is going to be shown on a terminal, which must not take it for control sequences.
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
    """The value of each field by its prefix."""
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
