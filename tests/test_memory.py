"""Starts, stops and forks under valgrind: we leak nothing, and read nothing invalid."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest
from ports import DISCARD_URL

PROGRAM = f"""
import gc, logging, os, sys
from runtime_metrics import RuntimeMetrics
logging.disable()
def cycle():
    RuntimeMetrics.enable(dogstatsd_url="{DISCARD_URL}", flush_interval=0.01, tags={{"a": "b"}})
    RuntimeMetrics.flush()
    RuntimeMetrics.snapshot()
    gc.collect()
    RuntimeMetrics.disable()
for _ in range(20):
    cycle()
RuntimeMetrics.enable(dogstatsd_url="{DISCARD_URL}")
for generation in range(3):
    RuntimeMetrics.flush()
    if child := os.fork():
        os.waitpid(child, 0)
        break
RuntimeMetrics.flush()
RuntimeMetrics.disable()
cycle()
"""

# Bytes that a thread owns while it lives. Up to CPython 3.11 it lives during a fork, and does not exist in the child.
LEFT_BEHIND = 0 if sys.version_info >= (3, 12) else 120

# How many frames from the allocation or read our code may be; beyond, it is Python that does what we asked it for.
MAX_DISTANCE = 6


def ours(report: str) -> list[str]:
    """The reports about our code, in the parent and its children."""
    records = re.split(r"\n==\d+== \n", report)
    frames = [re.findall(r"(?:at|by) 0x[0-9A-F]+: (.*)", record) for record in records]
    return [
        record
        for record, calls in zip(records, frames, strict=True)
        if any("_core.abi3" in call for call in calls[:MAX_DISTANCE])
        and not any("Py" in call for call in calls[:2])
    ]


def test_nothing_is_lost_and_nothing_invalid_is_read() -> None:
    if (valgrind := shutil.which("valgrind")) is None:
        pytest.skip("needs valgrind")
    options = ["--leak-check=full", "--show-leak-kinds=definite", "--num-callers=30"]
    done = subprocess.run(
        [valgrind, *options, sys.executable, "-c", PROGRAM],
        env=os.environ | {"PYTHONMALLOC": "malloc"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    processes = sorted(set(map(int, re.findall(r"==(\d+)== ERROR SUMMARY", done.stderr))))
    assert len(processes) == 4, "the parent and three generations of children"
    lost = dict.fromkeys(processes, 0)
    for record in ours(done.stderr):
        match = re.match(r"==(\d+)== (\d+) (?:\(.*\) )?bytes in \d+ blocks are definitely lost", record)
        assert match, record
        lost[int(match[1])] += int(match[2])
    # By chance, valgrind may still find pointers to some of it.
    limits = [generation * LEFT_BEHIND for generation in range(4)]
    assert [lost for lost, limit in zip(lost.values(), limits, strict=True) if lost > limit] == []


def test_a_record_of_ours_would_be_found() -> None:
    lost = (
        "==7== 64 bytes in 1 blocks are definitely lost\n"
        "==7==    at 0x48417B4: malloc (vg_replace_malloc.c:1)\n"
        "==7==    by 0x5967E14: ??? (in /x/runtime_metrics/_core.abi3.so)\n"
    )
    theirs = (
        "==7== 8 bytes in 1 blocks are definitely lost\n"
        "==7==    at 0x48417B4: malloc (vg_replace_malloc.c:1)\n"
        "==7==    by 0x4AD0863: PyImport_Import (import.c:2036)\n"
        "==7==    by 0x59963D9: ??? (in /x/runtime_metrics/_core.abi3.so)\n"
    )
    assert ours(f"{theirs}\n==7== \n{lost}") == [lost]
