"""An actor of dramatiq with the broker REDIS; `python dramatiq_jobs.py` sends messages."""

from __future__ import annotations

import os

import dramatiq  # type: ignore[import-not-found]
from dramatiq.brokers.redis import RedisBroker  # type: ignore[import-not-found]
from jobs import work

dramatiq.set_broker(RedisBroker(url=os.environ["REDIS"]))
actor = dramatiq.actor(work)

if __name__ == "__main__":
    for _ in range(4):
        actor.send()
