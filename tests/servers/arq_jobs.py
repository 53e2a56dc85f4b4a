"""The settings of an arq worker with the queue REDIS; `python arq_jobs.py` enqueues jobs."""

from __future__ import annotations

import asyncio
import os

from arq import create_pool  # type: ignore[import-not-found]
from arq.connections import RedisSettings  # type: ignore[import-not-found]
from jobs import work

REDIS = RedisSettings.from_dsn(os.environ["REDIS"])


async def job(_: object) -> None:
    """What a worker is given."""
    work()


class WorkerSettings:
    """What `arq` reads."""

    functions = [job]  # noqa: RUF012 - as arq documents it
    redis_settings = REDIS


async def main() -> None:
    """Enqueues jobs."""
    pool = await create_pool(REDIS)
    for _ in range(4):
        await pool.enqueue_job("job")


if __name__ == "__main__":
    asyncio.run(main())
