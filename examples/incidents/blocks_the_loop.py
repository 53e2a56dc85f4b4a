"""A coroutine makes a call that blocks, so that the event loop serves nobody else."""

from __future__ import annotations

import asyncio
import time

METRICS = ("event_loop.*", "gil.wait.max")
LOOK_AT = "event_loop.delay.max is the length of the call. gil.wait.max stays low: other threads could run."


def provoke(seconds: float) -> None:
    """Blocks the loop for 0.4 seconds at a time."""
    asyncio.run(serve(seconds))


async def serve(seconds: float) -> None:
    """What an asynchronous service must not do."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.sleep(0.1)
        time.sleep(0.4)
