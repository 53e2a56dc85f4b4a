"""Tasks are started and never end."""

from __future__ import annotations

import asyncio

METRICS = ("asyncio.tasks", "thread_count", "event_loop.delay.p95")
LOOK_AT = "asyncio.tasks grows, and thread_count does not."


def provoke(seconds: float) -> None:
    """Starts a thousand tasks that wait for ever."""
    asyncio.run(serve(seconds))


async def serve(seconds: float) -> None:
    """What is to be waited for never happens."""
    never = asyncio.Event()
    tasks = []
    for _ in range(10):
        tasks += [asyncio.create_task(never.wait()) for _ in range(100)]
        await asyncio.sleep(seconds / 10)
