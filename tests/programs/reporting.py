"""What the test programs share: facts about a process from the kernel and the clock, reported to the test in a file."""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import time
from typing import TYPE_CHECKING

from runtime_metrics import RuntimeMetrics

if TYPE_CHECKING:
    from collections.abc import Callable

INTERVAL = float(os.environ.get("DD_RUNTIME_METRICS_INTERVAL", "10"))
TIMEOUT = 20.0


def report(role: str, **facts: object) -> None:
    """Appends a line to the file that the test reads; several processes may do so at the same time."""
    line = json.dumps({"role": role, "pid": os.getpid(), "reported": time.monotonic(), **facts}) + "\n"
    file = os.open(os.environ["FACTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.write(file, line.encode())
    os.close(file)


def wait_until_reported(role: str, times: int) -> None:
    """Waits until this role has reported so many times."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        with open(os.environ["FACTS"]) as facts:
            if sum(json.loads(line)["role"] == role for line in facts) >= times:
                return
        assert time.monotonic() < deadline, f"{role} has not reported {times} times"
        time.sleep(0.01)


def links() -> list[str]:
    """The targets of this process's descriptors: a socket by its inode, a file of /proc by its pid."""
    found = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{entry}"))
        except FileNotFoundError:
            # The descriptor by which the directory was listed.
            continue
    return sorted(found)


def tasks() -> list[str]:
    """The names of the threads of this process besides the main one."""
    found = []
    for task in os.listdir("/proc/self/task"):
        if task == str(os.getpid()):
            continue
        with open(f"/proc/self/task/{task}/comm") as comm:
            found.append(comm.read().strip())
    return sorted(found)


def resident() -> int:
    """Resident memory in bytes."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def usage() -> tuple[float, int]:
    """CPU seconds and voluntary context switches of this process since its start."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, used.ru_nvcsw


def burn(seconds: float) -> None:
    """Uses the CPU."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        sum(range(1000))


def wait(pid: int) -> None:
    """Waits for a child, which must end without an error and in time."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        assert time.monotonic() < deadline, "the child hangs"
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(status) == 0, status


class Life:
    """The time of one process from its start, or from enabling metrics, until metrics are disabled."""

    def __init__(self, role: str) -> None:
        """Starts to record."""
        self._role = role
        self._born = time.monotonic()
        self._start = usage()
        self._inherited = links()
        self._collections = 0

    def collect(self, times: int) -> None:
        """Collects the oldest generation."""
        for _ in range(times):
            gc.collect()
        self._collections += times

    def end(self) -> None:
        """Disables metrics and reports what the kernel has counted until then."""
        own = links()
        memory, before = resident(), usage()
        RuntimeMetrics.disable()
        report(
            self._role,
            parent=os.getppid(),
            born=self._born,
            inherited=self._inherited,
            own=own,
            start=self._start,
            before=before,
            after=usage(),
            collections=self._collections,
            resident=memory,
            tasks_left=tasks(),
        )


def live(role: str) -> None:
    """Works, and lives until its first interval is over."""
    life = Life(role)
    kept = b"x" * (30 << 20)
    burn(0.05)
    life.collect(3)
    # Long enough for one tick, too short for a second.
    time.sleep(max(0.0, life._born + 1.5 * INTERVAL - time.monotonic()))
    life.end()
    del kept


def run(kinds: dict[str, Callable[[], None]]) -> None:
    """Runs the function that the command line names."""
    kinds[sys.argv[1]]()
