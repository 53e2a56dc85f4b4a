"""Numbers for people: a value with its unit, a series as a trend."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

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


def readable(value: float, unit: str) -> str:
    """A number with its unit: `73.4 MB`, `12.3 ms`, `98.2 %`, `1,204 objects`, `OK`.

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
    """A line of blocks, one for each number, scaled from the smallest to the largest."""
    if not values:
        return ""
    low = min(values)
    span = max(values) - low
    if not 0 < span < math.inf:
        return BLOCKS[0] * len(values)
    return "".join(BLOCKS[min(int((value - low) / span * len(BLOCKS)), len(BLOCKS) - 1)] for value in values)


def _digits(value: float) -> str:
    """Three significant digits, or a whole number in full."""
    size = abs(value)
    if size >= 1e12:
        return f"{value:.3g}"
    if value == int(value):
        return f"{value:,.0f}"
    return f"{value:,.{0 if size >= 100 else 1 if size >= 10 else 2}f}"
