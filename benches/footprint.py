"""A process that enables a subject and leaves, without the cost of an exit.

    python footprint.py SUBJECT [--memory]

Seen from outside, it is the startup measure. With --memory it prints the resident memory that import and
enable added, in kB. Nothing is imported here that a subject might import too: it would hide part of its cost.
"""

from __future__ import annotations

import os
import sys
import time

from subjects import load


def resident_kb() -> int:
    """Resident memory of this process now, page by page, where other files of /proc count in batches."""
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
