"""CPython without a GIL, which has a wheel of its own."""

from __future__ import annotations

import sys

import interpreters
from rows import FAILED, ROOT, Row, clippy, show

# How long threads do all at once.
SECONDS = "60"


def free_threaded() -> Row:
    """CPython 3.14 without a GIL, on this machine."""
    target = "x86_64-unknown-linux-gnu"
    row = Row(f"{target}, CPython 3.14t", checked=clippy(target))
    wheel, row.built = interpreters.wheel("cp314-cp314t-manylinux_2_17_x86_64")
    if wheel is None:
        row.run = "no: there is no wheel"
        return row
    tool = [sys.executable, str(ROOT / "tools/freethreaded.py"), "try", str(wheel), SECONDS]
    done = show("programs without a GIL", tool)
    last = done.stdout.strip().rpartition("\n")[2]
    row.run = last if done.returncode == 0 or last.startswith("no") else f"{FAILED}: {last}"
    return row
