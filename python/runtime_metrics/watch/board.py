"""Every series received, grouped by process."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from runtime_metrics import _core
from runtime_metrics.watch.format import CHECK, readable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from runtime_metrics.watch.dogstatsd import Line

TREND_LENGTH = 40


@dataclass
class Series:
    """The numbers of one metric with one set of tags, one for each line: the median of the line's values."""

    name: str
    unit: str
    tags: tuple[str, ...]
    smallest: float = math.inf
    largest: float = -math.inf
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=TREND_LENGTH))

    def add(self, values: Sequence[float]) -> None:
        """Takes the values of the next line."""
        self.smallest = min(self.smallest, *values)
        self.largest = max(self.largest, *values)
        self.recent.append(median(values))

    @property
    def latest(self) -> str:
        """The last number, formatted."""
        return readable(self.recent[-1], self.unit)

    @property
    def extremes(self) -> tuple[str, str]:
        """The smallest and the largest value so far, formatted."""
        return readable(self.smallest, self.unit), readable(self.largest, self.unit)


@dataclass(frozen=True)
class Row:
    """A series with its label: its name, and those of its tags that its process does not share."""

    label: str
    series: Series


@dataclass(frozen=True)
class Process:
    """The rows of one runtime-id, with the tags that they share and that not every series carries."""

    tags: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def label(self) -> str:
        """The tags that distinguish it from the other processes."""
        return " ".join(self.tags) or "(no runtime-id)"


class Board:
    """Every series received so far. Names of the catalogue come first, in its order."""

    def __init__(self, units: Mapping[str, str], only: Sequence[str] = ()) -> None:
        """Takes the units by name, in the catalogue's order, and the names and patterns to show; all if empty."""
        self.sample_count = 0
        self._only = only
        self._units = units
        self._rank = {name: rank for rank, name in enumerate(units)}
        self._series: dict[tuple[str, tuple[str, ...]], Series] = {}

    def add(self, line: Line) -> Series | None:
        """Adds the samples of a line and returns their series; None if there is nothing to show."""
        if self._only and not self._is_shown(line.name):
            return None
        self.sample_count += len(line.values)
        numbers = [value for value in line.values if isinstance(value, float)]
        if not numbers:
            return None
        if line.type == "c":
            # The Agent scales a sampled counter in the same way.
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

    def _is_shown(self, name: str) -> bool:
        # A member of a family is named by its entry, too.
        entry = self._entry(name)
        names = (name, entry) if entry in self._units else (name,)
        return any(_core.is_named(name, pattern) for name in names for pattern in self._only)

    def _entry(self, name: str) -> str:
        """The name in the catalogue, which lists a family without the last part of its members' names."""
        return name if name in self._units else name.rpartition(".")[0]

    def _sort_key(self, series: Series) -> tuple[int, str]:
        entry = self._entry(series.name)
        # Names that are not in the catalogue keep the order in which they came.
        return (self._rank[entry], series.name) if entry in self._rank else (len(self._rank), "")

    def _process(self, members: list[Series], everywhere: tuple[str, ...]) -> Process:
        shared = _shared(members)
        rows = tuple(Row(label(series, shared), series) for series in sorted(members, key=self._sort_key))
        return Process(tuple(tag for tag in shared if tag not in everywhere), rows)


def runtime_id(tags: Iterable[str]) -> str:
    """The runtime-id among the tags; empty if there is none."""
    return next((tag.removeprefix("runtime-id:") for tag in tags if tag.startswith("runtime-id:")), "")


def label(series: Series, shared: tuple[str, ...]) -> str:
    """The name of a series, and those of its tags that are not shared."""
    own = ",".join(tag for tag in series.tags if tag not in shared)
    return f"{series.name}{{{own}}}" if own else series.name


def _shared(members: Iterable[Series]) -> tuple[str, ...]:
    sets = [series.tags for series in members]
    return tuple(tag for tag in sets[0] if all(tag in tags for tags in sets)) if sets else ()
