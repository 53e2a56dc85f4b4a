"""The three subjects of the measures, with one interface: enable, disable and one tick.

Creating a subject imports its library. This module imports nothing that a library might import too, which would hide
part of its cost.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as `typing` has it, without its import
if TYPE_CHECKING:
    from typing import Any, Protocol

    class Subject(Protocol):
        """A library that sends runtime metrics at an interval, and on request."""

        def enable(self, interval: float | None = None) -> None:
            """Starts; `interval` is the number of seconds between its own ticks, None for its default."""

        def disable(self) -> object:
            """Stops."""

        def tick(self) -> object:
            """Collects and sends once, in the calling thread."""


class Ours:
    """This library."""

    def __init__(self) -> None:
        """Imports it."""
        from runtime_metrics import RuntimeMetrics

        self.metrics: Any = RuntimeMetrics
        self.disable = self.metrics.disable
        self.tick = self.metrics.flush

    def enable(self, interval: float | None = None) -> None:
        """Starts."""
        if interval is None:
            self.metrics.enable()
        else:
            self.metrics.enable(flush_interval=interval)


class Ddtrace:
    """RuntimeMetrics of ddtrace, as its documentation starts it."""

    tick: Any

    def __init__(self) -> None:
        """Imports it."""
        from ddtrace.runtime import RuntimeMetrics  # type: ignore[import-not-found]

        self.metrics: Any = RuntimeMetrics
        self.disable = self.metrics.disable

    def enable(self, interval: float | None = None) -> None:
        """Starts; its interval is a constant, without a setting."""
        from ddtrace.internal.runtime import runtime_metrics  # type: ignore[import-not-found]

        if interval is not None:
            runtime_metrics.DEFAULT_RUNTIME_METRICS_INTERVAL = interval
        self.metrics.enable()
        self.tick = runtime_metrics.RuntimeWorker._instance.flush


class Empty:
    """No library at all: the cost of the measurement itself."""

    def enable(self, interval: float | None = None) -> None:
        """Starts nothing."""
        del interval

    def disable(self) -> None:
        """Stops nothing."""

    def tick(self) -> None:
        """Sends nothing."""


def load(name: str) -> Subject:
    """Imports the library of this name: ours, ddtrace or empty."""
    subjects: dict[str, type[Subject]] = {"ours": Ours, "ddtrace": Ddtrace, "empty": Empty}
    return subjects[name]()
