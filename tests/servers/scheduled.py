"""APScheduler with an executor of threads or of processes: `python scheduled.py default|processpool`."""

from __future__ import annotations

import signal
import sys

from apscheduler.schedulers.blocking import BlockingScheduler  # type: ignore[import-not-found]
from jobs import work

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    scheduler = BlockingScheduler(
        {"apscheduler.executors.processpool": {"type": "processpool", "max_workers": 2}}
    )
    scheduler.add_job(work, "interval", seconds=0.3, executor=sys.argv[1])
    scheduler.start()
