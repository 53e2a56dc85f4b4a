"""A program that survives its MemoryError survives it with metrics enabled too."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from launching import each_version
from memory_limits import ACTIONS, LIMITS, PROGRAM
from ports import DISCARD_URL
from receiving import unnamed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from conftest import InstalledIn, RunProgram

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the limits are Linux's")

# With one heap for all threads, ours have no memory either.
ONE_HEAP = {"MALLOC_ARENA_MAX": "1"}

SKIPPED = """
import json, logging, resource, sys, time

class Kept(logging.Handler):
    def emit(self, record):
        if record.name == "runtime_metrics":
            kept.append([record.levelname, record.getMessage()])

kept = []
logging.getLogger().addHandler(Kept())
sys.path.insert(0, {programs!r})
from at_memory_limit import fill, set_limit
from runtime_metrics import RuntimeMetrics

def until(enough):
    deadline = time.monotonic() + 30
    while not enough():
        assert time.monotonic() < deadline, (kept, RuntimeMetrics.status())
        time.sleep(0.01)

def flushed(count):
    goal = RuntimeMetrics.status()["metrics"] + 15 * count
    until(lambda: RuntimeMetrics.status()["metrics"] >= goal)

RuntimeMetrics.enable(dogstatsd_url={url!r}, flush_interval=0.05)
flushed(2)
set_limit("AS")
filled = fill()
flushes = [RuntimeMetrics.flush(), RuntimeMetrics.flush(), RuntimeMetrics.flush()]
filled.clear()
until(lambda: any("skipped" in text for _, text in kept))
flushed(3)
snapshot = RuntimeMetrics.snapshot()
RuntimeMetrics.disable()
print(json.dumps({{"flushes": flushes, "logged": kept, "snapshot": len(snapshot)}}))
"""

LAST = """
import logging, sys
logging.basicConfig()
sys.path.insert(0, {programs!r})
from at_memory_limit import fill, set_limit
from runtime_metrics import RuntimeMetrics

RuntimeMetrics.enable(dogstatsd_url={url!r}, flush_interval=3600)
set_limit("AS")
filled = fill()
{end}
"""

# CPython's own test module can have one allocation fail.
FAILING = """
from _testcapi import remove_mem_hooks, set_nomemory
from runtime_metrics import RuntimeMetrics

def raised(call, first):
    RuntimeMetrics.enable(dogstatsd_url={url!r}, flush_interval=3600)
    try:
        set_nomemory(first, first + 1)
        call()
    except BaseException as error:
        return error
    finally:
        remove_mem_hooks()

calls = ["status", "snapshot", "flush", "enable", "disable"]
errors = [raised(getattr(RuntimeMetrics, call), first) for call in calls for first in range(100)]
print({{type(error).__name__ for error in errors if error}})
"""


def failures(python: str, cells: Iterable[tuple[str, str, dict[str, str]]]) -> list[str]:
    """Runs the program once for each cell: a limit, what it does there, and variables; returns what went wrong."""

    def run(cell: tuple[str, str, dict[str, str]]) -> str:
        limit, action, variables = cell
        command = [python, str(PROGRAM), *limit.split(), action, "with"]
        done = subprocess.run(
            command, env=os.environ | variables, capture_output=True, text=True, timeout=60, check=False
        )
        return f"{cell}: {done.returncode}, {done.stderr[-500:]}" if done.returncode else ""

    with ThreadPoolExecutor(4) as workers:
        return [failure for failure in workers.map(run, cells) if failure]


@pytest.mark.parametrize("limit", LIMITS)
def test_whatever_it_does_at_the_limit_the_program_lives_on(limit: str) -> None:
    assert failures(sys.executable, [(limit, action, ONE_HEAP) for action in ACTIONS]) == []


@each_version
def test_it_lives_on_with_each_version_however_many_heaps_there_are(
    version: str, installed_in: InstalledIn
) -> None:
    heaps: list[dict[str, str]] = [{}, {"MALLOC_ARENA_MAX": "2"}]
    actions = ["tick", "fork", "thread forks", "thread calls"]
    cells = [(limit, action, some) for limit in LIMITS[:2] for action in actions for some in heaps]
    assert failures(installed_in(version), cells) == []


def test_flushes_that_are_skipped_are_counted_and_reported_once_there_is_memory(
    run_program: RunProgram,
) -> None:
    source = SKIPPED.format(programs=str(PROGRAM.parent), url=DISCARD_URL)
    found = json.loads(run_program(source, MALLOC_ARENA_MAX="1"))
    assert found["flushes"] == [False, False, False]
    assert found["snapshot"] > 0
    reports = [text for level, text in found["logged"] if level == "WARNING" and "skipped" in text]
    assert len(reports) == 1
    match = re.fullmatch(
        r"(\d+) flushes were skipped because memory was short; the next one covers that time",
        unnamed(reports[0]),
    )
    assert match, reports
    assert int(match[1]) >= len(found["flushes"])


@pytest.mark.parametrize("end", ["RuntimeMetrics.disable()", "exit()"])
def test_a_last_flush_that_is_skipped_is_reported(end: str) -> None:
    source = LAST.format(programs=str(PROGRAM.parent), url=DISCARD_URL, end=end)
    assert errors_of([sys.executable, "-c", source]) == [
        "1 flush was skipped because memory was short, up to the last"
    ]


def test_an_enable_that_finds_no_memory_says_so_on_stderr() -> None:
    errors = errors_of([sys.executable, str(PROGRAM), "AS", "before", "enable", "with"])
    assert set(errors) == {"RuntimeMetrics.enable() did nothing, because memory is short: call it again"}


@pytest.mark.skipif(not importlib.util.find_spec("_testcapi"), reason="this interpreter has no test module")
def test_whatever_allocation_of_cpython_fails_nothing_but_its_error_is_raised_and_no_backtrace_is_made() -> (
    None
):
    command = [sys.executable, "-c", FAILING.format(url=DISCARD_URL)]
    done = subprocess.run(
        command,
        env=os.environ | {"RUST_BACKTRACE": "full"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "{'MemoryError'}\n"), done.stderr[-2000:]
    panics = [line for line in done.stderr.splitlines() if "panicked" in line]
    assert panics
    assert [line for line in panics if not line.startswith("runtime-metrics[")] == []
    assert "backtrace" not in done.stderr


def errors_of(command: list[str]) -> list[str]:
    """What a program that ends well writes to stderr, without what names us and the process."""
    done = subprocess.run(
        command,
        env=os.environ | ONE_HEAP | {"RUST_BACKTRACE": "full"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return unnamed(done.stderr).splitlines()
