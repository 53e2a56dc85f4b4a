"""What runs in those processes of Gunicorn's that are no workers."""

from __future__ import annotations

from gunicorn.dirty.app import DirtyApp


class Dirty(DirtyApp):  # type: ignore[misc]
    """Does nothing."""
