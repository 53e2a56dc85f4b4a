"""A background thread dies of an exception, and the program goes on without it."""

from __future__ import annotations

import threading
import time

METRICS = ("exceptions.uncaught", "thread_count")
LOOK_AT = "exceptions.uncaught counts it, with source:thread."


def provoke(seconds: float) -> None:
    """Starts a thread that raises."""

    def refresh() -> None:
        message = "the background job stops here"
        raise RuntimeError(message)

    threading.Thread(target=refresh).start()
    time.sleep(seconds)
