"""`python rq_jobs.py` enqueues jobs for rq in REDIS."""

from __future__ import annotations

import os

from redis import Redis  # type: ignore[import-not-found]
from rq import Queue

queue = Queue(connection=Redis.from_url(os.environ["REDIS"]))
for _ in range(4):
    queue.enqueue("jobs.work")
