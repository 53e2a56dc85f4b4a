"""The whole process is stopped for a while, as by an overcommitted host or a debugger (POSIX)."""

from __future__ import annotations

import os
import subprocess
import time

METRICS = ("os.hiccup.max", "gil.wait.max", "cpu.run_delay")
LOOK_AT = "os.hiccup.max rises to the length of the stop: it is the machine, not the program."


def provoke(seconds: float) -> None:
    """Is stopped, and continued by a child."""
    thaw = f"kill -STOP {os.getpid()}; sleep {seconds}; kill -CONT {os.getpid()}"
    subprocess.run(["/bin/sh", "-c", thaw], check=True)
    # By then every thread has woken up, and its delay is known.
    time.sleep(1)
