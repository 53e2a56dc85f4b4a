"""A task of huey with its queue in the folder QUEUE; `python huey_jobs.py` enqueues some."""

from __future__ import annotations

import os

from huey import SqliteHuey  # type: ignore[import-not-found]
from jobs import work

huey = SqliteHuey(filename=os.path.join(os.environ["QUEUE"], "huey.db"))
task = huey.task()(work)

if __name__ == "__main__":
    for _ in range(4):
        task()
