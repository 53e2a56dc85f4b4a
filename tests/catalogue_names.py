"""The names of the metrics, derived from the catalogue, so that no test keeps a list or a count.

A test of a metric is marked with the names that it compares with an independent source:

    @checks("runtime.python.mem.rss")
    def test_rss_agrees_with_psutil() -> None: ...
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeVar

import pytest

from runtime_metrics import _core

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Test = TypeVar("Test", bound="Callable[..., None]")

PREFIX = "runtime.python."
CATALOGUE = _core.catalogue()


def is_default(metric: _core.Metric) -> bool:
    """Whether a metric is sent without any setting."""
    return metric.level == "default" and not metric.by_name


ALL_NAMES = [metric.name for metric in CATALOGUE]
BY_NAME = [metric.name for metric in CATALOGUE if metric.by_name]

_OF_EVERY_PROCESS = [metric for metric in CATALOGUE if is_default(metric) and metric.name.startswith(PREFIX)]

# What each flush of every process contains at the default level, without the prefix and in the order on the wire.
NAMES = [metric.name.removeprefix(PREFIX) for metric in _OF_EVERY_PROCESS]

# The start of a flush.
FIRST = f"{PREFIX}{NAMES[0]}:".encode()

# Missing in a flush during which the interpreter did not answer.
INTERPRETER_NAMES = [
    metric.name.removeprefix(PREFIX) for metric in _OF_EVERY_PROCESS if "GcCount" in metric.needs
]

# Missing in a flush for whose interval our callback was missing in gc.callbacks.
CALLBACK_NAMES = [
    metric.name.removeprefix(PREFIX) for metric in _OF_EVERY_PROCESS if "GcCallback" in metric.needs
]

# Missing in a flush for an interval that is too short, such as the one before the exit.
PERCENT_NAMES = [metric.name.removeprefix(PREFIX) for metric in _OF_EVERY_PROCESS if metric.unit == "percent"]

# What a flush contains however short its interval is.
TIMELESS_NAMES = [name for name in NAMES if name not in PERCENT_NAMES]

# The level of all processes that choose none: what holds at the default level has to hold at the standard level, too.
LEVEL = os.environ.get("LEVEL", "default")
LEVEL_VARIABLE = "DD_RUNTIME_METRICS_LEVEL"

# What every flush contains.
CERTAIN_NAMES = [name for name in NAMES if name not in INTERPRETER_NAMES + PERCENT_NAMES]


# Each includes those before it.
LEVELS = ("default", "standard", "detailed")


def of_default_level(names: Iterable[str]) -> set[str]:
    """These names without those that the level of this test's processes adds, whose tags may follow them."""
    level = LEVELS.index(os.environ.get(LEVEL_VARIABLE, "default"))
    above = [metric for metric in CATALOGUE if 0 < LEVELS.index(metric.level) <= level]
    added = {metric.name.removeprefix(PREFIX) for metric in above}
    return {name for name in names if name.partition("{")[0] not in added}


def is_complete(names: Iterable[str]) -> bool:
    """Whether these are the names of the default level, and of what its level adds. Percentages may be missing."""
    return sorted(of_default_level(names)) in (sorted(NAMES), sorted(TIMELESS_NAMES))


def assert_complete(*flushes: Iterable[str]) -> None:
    """Fails unless each of these flushes contains every name of the default level, and no other.

    Percentages may be missing: a test of one waits long enough, and looks for it.
    """
    assert flushes, "there is no flush"
    for names in flushes:
        missing, unexpected = (
            set(NAMES).difference(names, PERCENT_NAMES),
            of_default_level(names).difference(NAMES),
        )
        assert not missing, (
            f"{sorted(missing)} did not arrive. Every process sends each `{PREFIX}` row of the default level: if its"
            " reading is None here, give the row another level or `by_name`"
        )
        assert not unexpected, (
            f"{sorted(unexpected)} arrived, but no row of the default level in the catalogue has such a name"
        )


def also_at_standard(argument: str, values: Iterable[str], *again: str) -> pytest.MarkDecorator:
    """Parametrizes a test by values of an argument, and with these again at the standard level."""
    cases = [
        *(pytest.param(value, LEVEL, id=value or None) for value in values),
        *(pytest.param(value, "standard", id=f"{value} at standard") for value in again),
    ]
    return pytest.mark.parametrize((argument, "level"), cases, indirect=["level"])


# At both levels.
each_level = pytest.mark.parametrize("level", ["default", "standard"], indirect=True)

# The tests that check each metric.
CHECKED_BY: dict[str, list[str]] = {name: [] for name in ALL_NAMES}


def checks(*names: str) -> Callable[[Test], Test]:
    """Marks a test that compares these metrics with an independent source of the same facts."""
    if unknown := [name for name in names if name not in CHECKED_BY]:
        message = f"@checks: {unknown} not in the catalogue; `runtime-metrics catalogue` lists its names"
        raise ValueError(message)

    def mark(test: Test) -> Test:
        assert test.__name__.startswith("test_"), "@checks marks tests, not what they share"
        for name in names:
            CHECKED_BY[name].append(f"{test.__module__}.{test.__name__}")
        return test

    return mark
