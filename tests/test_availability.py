"""Where each metric comes: the table in docs/availability.md is what programs in these environments have sent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from catalogue_names import CATALOGUE, PREFIX
from serving import ROOT, SERVERS, need

if TYPE_CHECKING:
    from conftest import InstalledIn
    from receiving import Flushes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="control groups and /proc are Linux's")

PROGRAM = Path(__file__).parent / "programs" / "available.py"
TABLE = ROOT / "docs" / "availability.json"
# Whether the table is to be written, not to be compared.
RECORDS = bool(os.environ.get("RECORD"))

STANDARD = [
    metric.name
    for metric in CATALOGUE
    if metric.name.startswith(PREFIX) and metric.level != "detailed" and not metric.by_name
]

CPU_STAT = "nr_periods 7\nnr_throttled 0\n"
MEMORY_STAT = "inactive_file 4096\ntotal_inactive_file 4096\n"
LIMITED_BY_VERSION_2 = {
    "cpu.max": "50000 100000\n",
    "cpu.stat": CPU_STAT,
    "memory.max": f"{512 << 20}\n",
    "memory.current": f"{64 << 20}\n",
    "memory.stat": MEMORY_STAT,
    "memory.events.local": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n",
}
LIMITED_BY_VERSION_1 = {
    "cpu/cpu.cfs_quota_us": "50000\n",
    "cpu/cpu.cfs_period_us": "100000\n",
    "cpu/cpu.stat": CPU_STAT,
    "memory/memory.limit_in_bytes": f"{512 << 20}\n",
    "memory/memory.usage_in_bytes": f"{64 << 20}\n",
    "memory/memory.stat": MEMORY_STAT,
    "memory/memory.failcnt": "0\n",
    "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n",
}
UNLIMITED_BY_VERSION_1 = LIMITED_BY_VERSION_1 | {
    "cpu/cpu.cfs_quota_us": "-1\n",
    "memory/memory.limit_in_bytes": "9223372036854771712\n",
}
OF_VERSION_1 = "4:memory:/\n3:cpu,cpuacct:/\n"

# What is left of /proc by a sandbox: files of it are copies.
EMPTY = "mount -t tmpfs none /proc && mkdir /proc/self"
FILTERED = f"""
cp /proc/$$/stat /proc/$$/statm "$FOLDER" && {EMPTY} && mkdir -p /proc/self/task/1 &&
cp "$FOLDER/stat" "$FOLDER/statm" /proc/self
"""


@dataclass(frozen=True)
class Surroundings:
    """What a program finds: by default an event loop of asyncio, control groups of version 2 with limits, and /proc."""

    runs: str = "asyncio"
    version: str | None = None
    cgroup: str = "0::/\n"
    groups: dict[str, str] = field(default_factory=lambda: LIMITED_BY_VERSION_2)
    proc: str = "true"


ENVIRONMENTS = {
    "CPython 3.10": Surroundings(version="3.10"),
    "CPython 3.11": Surroundings(version="3.11"),
    "CPython 3.12": Surroundings(version="3.12"),
    "CPython 3.13": Surroundings(version="3.13"),
    "uvloop": Surroundings(runs="uvloop"),
    "gevent": Surroundings(runs="gevent"),
    "no event loop": Surroundings(runs="nothing"),
    "cgroup v1": Surroundings(cgroup=OF_VERSION_1, groups=LIMITED_BY_VERSION_1),
    "cgroup hybrid": Surroundings(
        cgroup=f"{OF_VERSION_1}0::/\n", groups=LIMITED_BY_VERSION_1 | {"unified/cgroup.procs": ""}
    ),
    "cgroup without limits": Surroundings(cgroup=OF_VERSION_1, groups=UNLIMITED_BY_VERSION_1),
    "no cgroup": Surroundings(cgroup="", groups={}),
    "/proc read-only": Surroundings(proc="mount -o remount,bind,ro /proc"),
    "/proc filtered": Surroundings(proc=FILTERED),
    "no /proc": Surroundings(proc=EMPTY),
}

UNSHARE = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]

# None of these can be zero in a process that runs.
POSITIVE = [
    "mem.rss",
    "thread_count",
    "mem.rss.anon",
    "mem.rss.peak",
    "mem.python.blocks",
    "cpu.limit",
    "mem.headroom.percent",
    "fd.count",
    "fd.percent",
]


def observe(around: Surroundings, python: str, url: str, folder: Path, expected: set[str]) -> dict[str, str]:
    """Runs the program there; whether each metric was sent, or why not."""
    groups = folder / "groups"
    groups.mkdir()
    for name, text in around.groups.items():
        (groups / name).parent.mkdir(exist_ok=True)
        (groups / name).write_text(text)
    (folder / "cgroup").write_text(around.cgroup)
    script = f"""
    mount --bind "$FOLDER/groups" /sys/fs/cgroup && mount --bind "$FOLDER/cgroup" /proc/$$/cgroup &&
    {around.proc.strip()} && exec "$@"
    """
    stats = [str(groups / name) for name in around.groups if name.endswith("cpu.stat")]
    variables = {
        "DD_DOGSTATSD_URL": url,
        "DD_RUNTIME_METRICS_EXCLUDE": "gunicorn.*",
        "EXPECTED": ",".join(expected),
        "FOLDER": str(folder),
    }
    done = subprocess.run(
        [*UNSHARE, "sh", "-c", script, "sh", python, str(PROGRAM), around.runs, *stats],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    states: dict[str, str] = json.loads(done.stdout)
    return states


@pytest.fixture
def mounts() -> None:
    """Skips the test where no file system can be mounted."""
    done = subprocess.run(
        [*UNSHARE, "mount", "-t", "tmpfs", "none", "/proc"], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("needs the right to mount file systems in a namespace of its own")


@pytest.mark.usefixtures("mounts")
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_what_comes_in_an_environment_is_what_the_table_says(
    name: str, flushes: Flushes, installed_in: InstalledIn, tmp_path: Path
) -> None:
    around = ENVIRONMENTS[name]
    python = installed_in(around.version) if around.version else str(SERVERS / "bin" / "python")
    if around.runs in ("uvloop", "gevent"):
        need(around.runs)
    table = json.loads(TABLE.read_text())
    absent = table.get(name, {})
    expected = set() if RECORDS else {metric for metric in STANDARD if metric not in absent}
    states = observe(around, python, flushes.url, tmp_path, expected)
    assert set(states) == set(STANDARD)
    arrived = flushes.rest()
    values = [(name.partition("{")[0], value) for flush in arrived for name, value in flush.values.items()]
    sent = {metric for metric, state in states.items() if state == "sent"}
    assert {PREFIX + name for name, _ in values} == sent
    assert [(name, value) for name, value in values if value <= 0 and name in POSITIVE] == []
    missing = {metric: state for metric, state in states.items() if metric not in sent}
    if RECORDS:
        table = {name: table[name] for name in ENVIRONMENTS if name in table} | {name: missing}
        TABLE.write_text(
            json.dumps({name: table[name] for name in ENVIRONMENTS if name in table}, indent=2) + "\n"
        )
    assert missing == absent or RECORDS, "run `make availability`, and read what it has changed"


def test_the_table_has_the_environments_of_these_tests_and_metrics_that_there_are() -> None:
    table = json.loads(TABLE.read_text())
    assert list(table) == list(ENVIRONMENTS)
    assert {metric for absent in table.values() for metric in absent} <= {*STANDARD}
