"""The work that the programs of test_workers.py do. ENABLE_IN says whether metrics are enabled here."""

from __future__ import annotations

import json
import os
import time

from runtime_metrics import RuntimeMetrics

if os.environ["ENABLE_IN"] == "application":
    RuntimeMetrics.enable()


def work(seconds: float = 0.1) -> None:
    """Uses CPU time, and appends how much and in which process to the file RECORD."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    with open(os.environ["RECORD"], "a") as record:
        record.write(json.dumps({"pid": os.getpid(), "cpu": seconds}) + "\n")
