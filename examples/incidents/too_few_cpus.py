"""Others compute on the CPU that the process runs on (Linux)."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import ExitStack

METRICS = ("cpu.run_delay", "os.hiccup.max", "gil.wait.max", "cpu.limit")
LOOK_AT = "cpu.run_delay grows by two seconds in three: of three that compute, each gets a third of the CPU."


def provoke(seconds: float) -> None:
    """Computes on one CPU, together with two other processes."""
    allowed = os.sched_getaffinity(0)
    # What is started from here inherits it.
    os.sched_setaffinity(0, {max(allowed)})
    with ExitStack() as stack:
        for _ in range(2):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(process.kill)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            sum(range(1000))
    os.sched_setaffinity(0, allowed)
