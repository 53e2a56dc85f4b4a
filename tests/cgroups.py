"""Control groups with limits, where this machine allows a test to make some."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path("/sys/fs/cgroup")
# Of a CPU quota; the kernel's default.
PERIOD = 100_000


def _parent(controller: str) -> tuple[Path, bool]:
    """The group that this process is in, and whether it is one of version 1."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            mounted = ROOT / controller
            inside = mounted / path.lstrip("/")
            return (inside if inside.is_dir() else mounted), True
    return _unified(), False


def _unified() -> Path:
    """The group of version 2 that this process is in."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    path = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "/")
    return ROOT / path.lstrip("/")


@contextmanager
def limited(controller: str, limit: float) -> Iterator[Path]:
    """The file to write a pid to that is to have so many CPUs (cpu), bytes (memory) or threads (pids)."""
    parent, is_version_1 = _parent(controller)
    group = parent / f"runtime-metrics-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    files = {
        ("cpu", True): {"cpu.cfs_period_us": f"{PERIOD}", "cpu.cfs_quota_us": f"{limit * PERIOD:.0f}"},
        ("cpu", False): {"cpu.max": f"{limit * PERIOD:.0f} {PERIOD}"},
        ("memory", True): {"memory.limit_in_bytes": f"{limit:.0f}"},
        ("memory", False): {"memory.max": f"{limit:.0f}"},
        ("pids", True): {"pids.max": f"{limit:.0f}"},
        ("pids", False): {"pids.max": f"{limit:.0f}"},
    }
    try:
        for name, value in files[controller, is_version_1].items():
            if not (group / name).exists():
                pytest.skip(f"the controller {controller} is not delegated to {parent}")
            (group / name).write_text(value)
        yield group / "cgroup.procs"
    finally:
        group.rmdir()


@contextmanager
def tracked() -> Iterator[list[Path]]:
    """The files to write a pid to, whose processes the kernel watches for what they wait for.

    Beside version 1 the process has to be in a group of the same path there.
    """
    parents = [ROOT / "unified", _unified()]
    parent = next((it for it in parents if (it / "cpu.pressure").exists()), None)
    if parent is None:
        pytest.skip("the kernel does not track pressure")
    of_cpus, is_version_1 = ROOT / "cpu", _parent("cpu")[1]
    groups = [it / f"runtime-metrics-{os.getpid()}" for it in [parent, *[of_cpus] * is_version_1]]
    made = []
    try:
        for group in groups:
            try:
                group.mkdir()
            except OSError as error:
                pytest.skip(f"no control group can be made here: {error}")
            made.append(group)
        yield [group / "cgroup.procs" for group in groups]
    finally:
        for group in made:
            group.rmdir()
