"""The three subjects under measurement, behind one face: enable, disable and one tick.

A library is imported by making its subject. Nothing else that it might import is imported here: that would
hide part of what it costs.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as `typing` has it, without its import
if TYPE_CHECKING:
    from typing import Any, Protocol

    class Subject(Protocol):
        """One library that sends runtime metrics by itself, and on request."""

        def enable(self, interval: float | None = None) -> None:
            """Start; `interval` is the seconds between its own ticks, or its default."""

        def disable(self) -> object:
            """Stop."""

        def tick(self) -> object:
            """Collect and send once, in the calling thread."""


class Ours:
    """This library."""

    def __init__(self) -> None:
        """Import it."""
        from runtime_metrics import RuntimeMetrics

        self.metrics: Any = RuntimeMetrics
        self.disable = self.metrics.disable
        self.tick = self.metrics.flush

    def enable(self, interval: float | None = None) -> None:
        """Start."""
        if interval is None:
            self.metrics.enable()
        else:
            self.metrics.enable(flush_interval=interval)


class Ddtrace:
    """RuntimeMetrics of ddtrace, as its documentation starts it."""

    tick: Any

    def __init__(self) -> None:
        """Import it."""
        from ddtrace.runtime import RuntimeMetrics  # type: ignore[import-not-found]

        self.metrics: Any = RuntimeMetrics
        self.disable = self.metrics.disable

    def enable(self, interval: float | None = None) -> None:
        """Start; its interval is a constant, there is no setting."""
        from ddtrace.internal.runtime import runtime_metrics  # type: ignore[import-not-found]

        if interval is not None:
            runtime_metrics.DEFAULT_RUNTIME_METRICS_INTERVAL = interval
        self.metrics.enable()
        self.tick = runtime_metrics.RuntimeWorker._instance.flush


class Empty:
    """No library at all: what the measuring itself costs."""

    def enable(self, interval: float | None = None) -> None:
        """Start nothing."""
        del interval

    def disable(self) -> None:
        """Stop nothing."""

    def tick(self) -> None:
        """Send nothing."""


def load(name: str) -> Subject:
    """Import the library behind `name`: ours, ddtrace or empty."""
    subjects: dict[str, type[Subject]] = {"ours": Ours, "ddtrace": Ddtrace, "empty": Empty}
    return subjects[name]()
