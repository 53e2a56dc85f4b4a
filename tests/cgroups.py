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
    unified = "/"
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            mounted = ROOT / controller
            inside = mounted / path.lstrip("/")
            return (inside if inside.is_dir() else mounted), True
        if not controllers:
            unified = path
    return ROOT / unified.lstrip("/"), False


@contextmanager
def limited(controller: str, limit: float) -> Iterator[Path]:
    """The file to write a pid to that is to have so many CPUs (cpu) or bytes (memory)."""
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
    }
    try:
        for name, value in files[controller, is_version_1].items():
            if not (group / name).exists():
                pytest.skip(f"the controller {controller} is not delegated to {parent}")
            (group / name).write_text(value)
        yield group / "cgroup.procs"
    finally:
        group.rmdir()
