"""Stalls are counted once, by their cause, and nothing else is taken for one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from catalogue_names import checks
from launching import VERSIONS, each_version

if TYPE_CHECKING:
    from conftest import InstalledIn
    from receiving import Flush, Flushes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="some causes are known on Linux only")

PROGRAM = Path(__file__).parent / "programs" / "stalling.py"
STALLS = re.compile(r"stall\.count\{cause:(\w+)\}")
CAUSES = {"cpu_starved", "io_d_state", "gc", "gil_native", "python"}

# How often each stall is provoked.
TIMES = int(os.environ.get("STALLS", "1"))

# Tests that measure run alone: on one version, unless all is to be provoked many times.
MEASURED = VERSIONS if TIMES > 1 else ["3.12"]

# What each way to stall is counted as.
STALLING = {
    "hold_the_gil": "gil_native",
    "block": "python",
    "hold_the_gil_in_a_loop": "gil_native",
}
# These need a CPU all the time.
COMPUTING = {"collect": "gc", "compute": "python"}


def stalls(flush: Flush) -> dict[str, int]:
    """The stalls of a flush, by cause."""
    found = {m[1]: int(value) for name, value in flush.values.items() if (m := STALLS.fullmatch(name))}
    assert sum(name.startswith("stall.") for name in flush.values) == len(found)
    return found


def provoked(flushes: Flushes, python: str, way: str, times: int, **environment: str) -> Counter[str]:
    """Runs the program; returns the stalls, each counted in the flush after it."""
    done = subprocess.run(
        [python, "-W", "error", str(PROGRAM), way, str(times)],
        env=os.environ | {"DD_DOGSTATSD_URL": flushes.url} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60 + 30 * times,
    )
    assert (done.returncode, done.stderr) == (0, "")
    first, *rest = flushes.rest()
    # The alarm is armed.
    assert stalls(first) == dict.fromkeys(CAUSES, 0)
    return sum((Counter(stalls(flush)) for flush in rest), Counter())


@checks("runtime.python.stall.count")
@pytest.mark.parametrize("way", STALLING)
@each_version
def test_a_stall_is_counted_once_by_its_cause(
    flushes: Flushes, installed_in: InstalledIn, version: str, way: str
) -> None:
    assert provoked(flushes, installed_in(version), way, TIMES) == {STALLING[way]: TIMES}


@pytest.mark.measures
@pytest.mark.parametrize("way", COMPUTING)
@pytest.mark.parametrize("version", MEASURED)
def test_a_stall_of_a_computing_thread_is_counted_once_by_its_cause(
    flushes: Flushes, installed_in: InstalledIn, version: str, way: str
) -> None:
    assert provoked(flushes, installed_in(version), way, TIMES) == {COMPUTING[way]: TIMES}


@pytest.mark.parametrize("way", ["be_idle", "compete_for_the_gil", "let_the_loop_end"])
def test_what_waits_or_shares_has_not_stalled(flushes: Flushes, way: str) -> None:
    assert provoked(flushes, sys.executable, way, TIMES) == {}


@pytest.mark.measures
@pytest.mark.parametrize("version", MEASURED)
def test_a_process_that_gets_no_cpu_is_starved(
    flushes: Flushes, installed_in: InstalledIn, version: str
) -> None:
    cpu = min(os.sched_getaffinity(0))
    competitor = f"import os; os.sched_setaffinity(0, [{cpu}])\nwhile True: pass"
    competitors = [subprocess.Popen([sys.executable, "-c", competitor]) for _ in range(2)]
    try:
        found = provoked(flushes, installed_in(version), "starve", TIMES, CPU=str(cpu))
    finally:
        for process in competitors:
            process.kill()
            process.wait()
    # Each time the process gets a CPU for a moment, something may end and begin anew.
    assert found.keys() == {"cpu_starved"}
    assert found["cpu_starved"] >= TIMES


@pytest.mark.parametrize(
    ("way", "seconds"), [("compete_for_the_gil", 5), ("be_idle", 5), ("iterate", 5), ("iterate", 1.4)]
)
def test_a_process_that_is_stopped_has_not_stalled(flushes: Flushes, way: str, seconds: float) -> None:
    program = subprocess.Popen(
        [sys.executable, str(PROGRAM), way, "3"], env=os.environ | {"DD_DOGSTATSD_URL": flushes.url}
    )
    flushes.next()
    for _ in range(2):
        time.sleep(1.3)
        program.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        program.send_signal(signal.SIGCONT)
    assert program.wait(60) == 0
    assert not any(stalls(flush) for flush in flushes.rest())
