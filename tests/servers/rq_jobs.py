"""`python rq_jobs.py NUMBER` enqueues jobs for rq in REDIS."""

from __future__ import annotations

import os
import sys

from redis import Redis  # type: ignore[import-not-found]
from rq import Queue

queue = Queue(connection=Redis.from_url(os.environ["REDIS"]))
for _ in range(int(sys.argv[1])):
    queue.enqueue("jobs.work")
