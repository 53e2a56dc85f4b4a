"""What has been received, arranged to be read: series by process, values with their unit, trends."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from runtime_metrics.cli.receiver import Sample

TREND_LENGTH = 40
BLOCKS = "▁▂▃▄▅▆▇█"
SCALES: dict[str, tuple[tuple[float, str], ...]] = {
    "byte": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B")),
    "nanosecond": ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1, "ns")),
    "percent": ((1, "%"),),
    "second": ((1, "s"), (1e-3, "ms"), (1e-6, "µs")),
}


@dataclass
class Series:
    """The numbers of one name with one set of tags."""

    name: str
    unit: str
    tags: tuple[str, ...]
    count: int = 0
    smallest: float = math.inf
    largest: float = -math.inf
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=TREND_LENGTH))

    def add(self, value: float) -> None:
        """Takes the next number."""
        self.count += 1
        self.smallest = min(self.smallest, value)
        self.largest = max(self.largest, value)
        self.recent.append(value)

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

    def __init__(self, units: Mapping[str, str]) -> None:
        """Takes the unit of each name in the catalogue."""
        self.sample_count = 0
        self._units = units
        self._rank = {name: rank for rank, name in enumerate(units)}
        self._series: dict[tuple[str, tuple[str, ...]], Series] = {}

    def add(self, sample: Sample) -> Series | None:
        """Files a sample and gives its series; None for a set, which has no number."""
        self.sample_count += 1
        if isinstance(sample.value, str):
            return None
        key = (sample.name, sample.tags)
        if key not in self._series:
            self._series[key] = Series(sample.name, self._units.get(sample.name, ""), sample.tags)
        series = self._series[key]
        series.add(sample.value)
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

    def _process(self, members: list[Series], everywhere: tuple[str, ...]) -> Process:
        shared = _shared(members)
        rows = tuple(
            Row(_label(series, shared), series)
            for series in sorted(members, key=lambda series: self._rank.get(series.name, len(self._rank)))
        )
        return Process(tuple(tag for tag in shared if tag not in everywhere), rows)


def runtime_id(tags: Iterable[str]) -> str:
    """The runtime-id among the tags; empty if there is none."""
    return next((tag.removeprefix("runtime-id:") for tag in tags if tag.startswith("runtime-id:")), "")


def readable(value: float, unit: str) -> str:
    """A number for people: `73.4 MB`, `12.3 ms`, `98.2 %`, `1,204 objects`.

    Args:
        value: The number.
        unit: A unit of the catalogue; empty if unknown.
    """
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


def _label(series: Series, shared: tuple[str, ...]) -> str:
    own = ",".join(tag for tag in series.tags if tag not in shared)
    return f"{series.name}{{{own}}}" if own else series.name
