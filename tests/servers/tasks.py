"""Celery behind an HTTP server: `python tasks.py SOCKET` also starts the worker."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from application import answer
from celery import Celery  # type: ignore[import-not-found]
from front import serve

FOLDER = Path(os.environ["CELERY_FOLDER"])
SENT, QUEUE = FOLDER / "sent", FOLDER / "queue"
WORKER = (
    "-m celery --app tasks worker --pool prefork --concurrency 2 --loglevel WARNING"
    " --without-mingle --without-gossip --without-heartbeat"
)

celery = Celery("tasks", broker="filesystem://", backend=f"file://{FOLDER}")
celery.conf.broker_transport_options = {
    "data_folder_in": str(QUEUE),
    "data_folder_out": str(SENT),
    "control_folder": str(FOLDER),
    "polling_interval": 0.05,
}
task = celery.task(answer, name="answer")


def answers() -> list[str]:
    """Runs some tasks and returns their results."""
    results = [task.delay() for _ in range(4)]
    # This broker hands out a message even before it is completely written, so they are moved there when they are.
    for message in SENT.iterdir():
        message.rename(QUEUE / message.name)
    return [result.get() for result in results]


def main(path: str) -> None:
    """Serves, and ends the worker at the end."""
    SENT.mkdir()
    QUEUE.mkdir()
    with subprocess.Popen([sys.executable, *WORKER.split()]) as worker:
        try:
            serve(path, answers)
        finally:
            worker.terminate()


if __name__ == "__main__":
    main(*sys.argv[1:])
