"""Gunicorn's settings: hooks in which the master may enable metrics."""

from __future__ import annotations

import os

from runtime_metrics import RuntimeMetrics


def on_starting(_: object) -> None:
    """Before anything else."""
    enable_in("on_starting")


def when_ready(_: object) -> None:
    """Before the workers are forked."""
    enable_in("when_ready")


def enable_in(hook: str) -> None:
    """Enables metrics if this is the place."""
    if os.environ["ENABLE_IN"] == hook:
        RuntimeMetrics.enable()
