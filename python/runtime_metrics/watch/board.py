"""What has been received, arranged to be read: series by process, values with their unit, trends."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from runtime_metrics.watch.receiver import Line

TREND_LENGTH = 40
BLOCKS = "▁▂▃▄▅▆▇█"
SCALES: dict[str, tuple[tuple[float, str], ...]] = {
    "byte": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B")),
    "millisecond": ((1e3, "s"), (1, "ms"), (1e-3, "µs")),
    "nanosecond": ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1, "ns")),
    "percent": ((1, "%"),),
    "second": ((1, "s"), (1e-3, "ms"), (1e-6, "µs")),
}
CHECK = "service check"
CHECK_STATES = ("OK", "WARNING", "CRITICAL", "UNKNOWN")


@dataclass
class Series:
    """The numbers of one name with one set of tags; of a line with several, their median is the next number."""

    name: str
    unit: str
    tags: tuple[str, ...]
    smallest: float = math.inf
    largest: float = -math.inf
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=TREND_LENGTH))

    def add(self, values: Sequence[float]) -> None:
        """Takes the numbers of the next line."""
        self.smallest = min(self.smallest, *values)
        self.largest = max(self.largest, *values)
        self.recent.append(median(values))

    @property
    def latest(self) -> str:
        """The last number, readable."""
        return readable(self.recent[-1], self.unit)

    @property
    def extremes(self) -> tuple[str, str]:
        """The smallest and the largest number so far, readable."""
        return readable(self.smallest, self.unit), readable(self.largest, self.unit)


@dataclass(frozen=True)
class Row:
    """A series beside its label: its name, and those of its tags that its process does not share."""

    label: str
    series: Series


@dataclass(frozen=True)
class Process:
    """The rows of one runtime-id, with the tags they share beyond those all processes share."""

    tags: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def label(self) -> str:
        """What tells it from the other processes."""
        return " ".join(self.tags) or "(no runtime-id)"


class Board:
    """Every series received so far. The catalogue's names come first, in its order."""

    def __init__(self, units: Mapping[str, str], only: Sequence[str] = ()) -> None:
        """Takes the unit of each name in the catalogue, and the names and groups that alone are of interest."""
        self.sample_count = 0
        self._only = only
        self._units = units
        self._rank = {name: rank for rank, name in enumerate(units)}
        self._series: dict[tuple[str, tuple[str, ...]], Series] = {}

    def add(self, line: Line) -> Series | None:
        """Files the samples of a line and gives their series; None if there is nothing to show."""
        if self._only and not any(fnmatchcase(line.name, pattern) for pattern in self._only):
            return None
        self.sample_count += len(line.values)
        numbers = [value for value in line.values if isinstance(value, float)]
        if not numbers:
            return None
        if line.type == "c":
            # What is counted, and told of a part of it only, is as many times as much.
            numbers = [sum(numbers) / line.rate]
        key = (line.name, line.tags)
        if key not in self._series:
            unit = CHECK if line.type == "_sc" else self._units.get(self._entry(line.name), "")
            self._series[key] = Series(line.name, unit, line.tags)
        series = self._series[key]
        series.add(numbers)
        return series

    @property
    def names(self) -> set[str]:
        """The names seen so far."""
        return {series.name for series in self._series.values()}

    @property
    def shared_tags(self) -> tuple[str, ...]:
        """The tags that every series carries."""
        return _shared(self._series.values())

    @property
    def processes(self) -> tuple[Process, ...]:
        """The processes, in the order in which they appeared."""
        members: dict[str, list[Series]] = {}
        for series in self._series.values():
            members.setdefault(runtime_id(series.tags), []).append(series)
        everywhere = self.shared_tags
        return tuple(self._process(series, everywhere) for series in members.values())

    def _entry(self, name: str) -> str:
        """The name in the catalogue: a family of names has one without what ends each of them."""
        return name if name in self._units else name.rpartition(".")[0]

    def _place(self, series: Series) -> tuple[int, str]:
        entry = self._entry(series.name)
        # What is not in the catalogue stays as it came.
        return (self._rank[entry], series.name) if entry in self._rank else (len(self._rank), "")

    def _process(self, members: list[Series], everywhere: tuple[str, ...]) -> Process:
        shared = _shared(members)
        rows = tuple(Row(label(series, shared), series) for series in sorted(members, key=self._place))
        return Process(tuple(tag for tag in shared if tag not in everywhere), rows)


def runtime_id(tags: Iterable[str]) -> str:
    """The runtime-id among the tags; empty if there is none."""
    return next((tag.removeprefix("runtime-id:") for tag in tags if tag.startswith("runtime-id:")), "")


def readable(value: float, unit: str) -> str:
    """A number for people: `73.4 MB`, `12.3 ms`, `98.2 %`, `1,204 objects`, `OK`.

    Args:
        value: The number.
        unit: A unit of the catalogue, or `CHECK`; empty if unknown.
    """
    if unit == CHECK:
        return CHECK_STATES[int(value)]
    if unit in SCALES:
        scales = SCALES[unit]
        factor, symbol = next((scale for scale in scales if abs(value) >= scale[0]), scales[-1])
        return f"{_digits(value / factor)} {symbol}"
    if not unit:
        return _digits(value)
    plural = "" if value == 1 else "es" if unit.endswith("ch") else "s"
    return f"{_digits(value)} {unit}{plural}"


def trend(values: Sequence[float]) -> str:
    """The course of some numbers as a line of blocks, from their smallest to their largest."""
    if not values:
        return ""
    low = min(values)
    span = max(values) - low
    if not 0 < span < math.inf:
        return BLOCKS[0] * len(values)
    return "".join(BLOCKS[min(int((value - low) / span * len(BLOCKS)), len(BLOCKS) - 1)] for value in values)


def _digits(value: float) -> str:
    """Three significant digits, or a whole number as it is."""
    size = abs(value)
    if size >= 1e12:
        return f"{value:.3g}"
    if value == int(value):
        return f"{value:,.0f}"
    return f"{value:,.{0 if size >= 100 else 1 if size >= 10 else 2}f}"


def _shared(members: Iterable[Series]) -> tuple[str, ...]:
    sets = [series.tags for series in members]
    return tuple(tag for tag in sets[0] if all(tag in tags for tags in sets)) if sets else ()


def label(series: Series, shared: tuple[str, ...]) -> str:
    """Its name, and those of its tags that are its own."""
    own = ",".join(tag for tag in series.tags if tag not in shared)
    return f"{series.name}{{{own}}}" if own else series.name
