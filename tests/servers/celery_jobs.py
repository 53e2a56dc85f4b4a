"""An application of Celery with a broker in the folder QUEUE; `python celery_jobs.py` sends tasks."""

from __future__ import annotations

import os

from celery import Celery  # type: ignore[import-not-found]
from jobs import work

FOLDER = os.environ["QUEUE"]

app = Celery("celery_jobs", broker="filesystem://")
app.conf.broker_transport_options = {
    "data_folder_in": FOLDER,
    "data_folder_out": FOLDER,
    "control_folder": FOLDER,
    "polling_interval": 0.05,
}
task = app.task(work, name="work")

if __name__ == "__main__":
    for _ in range(4):
        task.delay()
