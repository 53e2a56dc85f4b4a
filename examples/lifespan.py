"""An ASGI application, without a framework, whose workers also report their last interval.

    uvicorn --workers 2 --app-dir examples lifespan:application
    hypercorn --workers 2 examples/lifespan.py:application
    granian --workers 2 --working-dir examples --interface asgi lifespan:application

These servers end their workers by a signal, which skips the interpreter's exit and its final flush. The lifespan ends
before that. In a framework, put the same two calls before and after the `yield` of its lifespan.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

from runtime_metrics import RuntimeMetrics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Receive = Callable[[], Awaitable[dict[str, Any]]]
    Send = Callable[[dict[str, Any]], Awaitable[None]]


async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Responds to every request."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"Answered by process %d.\n" % os.getpid()})


async def lifespan(receive: Receive, send: Send) -> None:
    """Collects metrics from before the first request until after the last one."""
    assert (await receive())["type"] == "lifespan.startup"
    RuntimeMetrics.enable()
    # Hypercorn kills its other workers by this signal once the first has shut down, whatever they are doing.
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, end)
    await send({"type": "lifespan.startup.complete"})
    assert (await receive())["type"] == "lifespan.shutdown"
    RuntimeMetrics.disable()
    await send({"type": "lifespan.shutdown.complete"})


def end(signal_number: int, _: object) -> None:
    """Dies of the signal, after a final flush if there was none yet."""
    RuntimeMetrics.disable()
    signal.signal(signal_number, signal.SIG_DFL)
    signal.raise_signal(signal_number)
