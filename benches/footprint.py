"""A process that enables a subject and exits at once, without the cost of a normal exit.

    python footprint.py SUBJECT [--memory]

Its CPU, measured from outside, is the startup measure. With --memory it prints the resident memory that import and
enable added, in kB. It imports nothing that a subject might import too, which would hide part of the subject's cost.
"""

from __future__ import annotations

import os
import sys
import time

from subjects import load


def resident_kb() -> int:
    """Resident memory of this process, exact to the page; other files of /proc are updated in batches."""
    with open("/proc/self/smaps_rollup") as rollup:
        return next(int(line.split()[1]) for line in rollup if line.startswith("Rss:"))


if sys.argv[2:] == ["--memory"]:
    resident_kb()
    before = resident_kb()
    load(sys.argv[1]).enable()
    time.sleep(0.2)  # until its threads have settled
    print(resident_kb() - before, flush=True)
else:
    load(sys.argv[1]).enable()
os._exit(0)
