"""The application of Gunicorn's dirty workers, which are no workers to us."""

from __future__ import annotations

from gunicorn.dirty.app import DirtyApp


class Dirty(DirtyApp):  # type: ignore[misc]
    """Does nothing."""
