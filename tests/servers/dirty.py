"""What runs in those processes of Gunicorn's that are no workers."""

from __future__ import annotations

import signal

from gunicorn.dirty.app import DirtyApp  # type: ignore[import-untyped]


class Dirty(DirtyApp):  # type: ignore[misc]
    """Does nothing."""


class Slow(DirtyApp):  # type: ignore[misc]
    """Keeps the master waiting for a second when it is to end, after its workers have gone."""

    def close(self) -> None:
        """Waits for a signal that nobody sends."""
        signal.sigtimedwait([signal.SIGRTMAX], 1)
