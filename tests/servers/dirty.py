"""An application for Gunicorn's dirty workers, whose hooks test_gunicorn_hooks.py looks at."""

from __future__ import annotations

from gunicorn.dirty.app import DirtyApp  # type: ignore[import-untyped]


class Idle(DirtyApp):  # type: ignore[misc]
    """Does nothing."""
