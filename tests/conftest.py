"""What all tests share: a receiver on a free port, and programs in separate processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest
from catalogue_names import LEVEL, LEVEL_VARIABLE
from launching import install_into, interpreter, virtual_environment, wheel
from receiving import Flushes
from serving import SETTINGS, Reports

from runtime_metrics import RuntimeMetrics

if TYPE_CHECKING:
    from collections.abc import Iterator

# Tests that run in the background ignore SIGINT, and their programs would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The size of pytest's own terminal, which readline exports to the processes of pytest-xdist.
for variable in ("COLUMNS", "LINES"):
    os.environ.pop(variable, None)


# No test depends on what its shell exports.
for variable in [name for name in os.environ if name.startswith(SETTINGS)]:
    del os.environ[variable]


def set_level(level: str) -> None:
    """Has processes that choose none use this level."""
    if level == "default":
        os.environ.pop(LEVEL_VARIABLE, None)
    else:
        os.environ[LEVEL_VARIABLE] = level


# Also for what several tests share.
set_level(LEVEL)


@pytest.fixture(autouse=True)
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    """The level of the test, where it is parametrized by that."""
    level: str = getattr(request, "param", LEVEL)
    set_level(level)
    yield level
    set_level(LEVEL)


@pytest.fixture
def flushes() -> Iterator[Flushes]:
    """A UDP receiver; metrics are disabled when the test ends."""
    with Flushes.udp() as receiving:
        yield receiving
        RuntimeMetrics.disable()


@pytest.fixture
def reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reports]:
    """What processes report: one flush each, when they end."""
    reports = Reports(tmp_path / "dogstatsd")
    monkeypatch.setenv("DD_DOGSTATSD_URL", reports.url)
    monkeypatch.setenv("DD_RUNTIME_METRICS_INTERVAL", "3600")
    yield reports
    reports.stop()


class Preloaded(Protocol):
    """Returns the path of a library for LD_PRELOAD, by the name of its source in tests/preloaded."""

    def __call__(self, name: str) -> str:
        """Compiles it at the first call; skips the test where there is no compiler."""


@pytest.fixture(scope="session")
def preloaded(tmp_path_factory: pytest.TempPathFactory) -> Preloaded:
    """Compiles the libraries that replace functions of the C library."""
    folder = tmp_path_factory.mktemp("preloaded")

    @cache
    def compiled(name: str) -> str:
        if (compiler := shutil.which("cc")) is None:
            pytest.skip(f"needs a C compiler for tests/preloaded/{name}.c")
        library, source = folder / f"{name}.so", Path(__file__).parent / "preloaded" / f"{name}.c"
        subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
        return str(library)

    return compiled


class InstalledIn(Protocol):
    """Returns an interpreter of a version whose environment has our package and nothing else."""

    def __call__(self, version: str) -> str:
        """Makes the environment at the first call; skips the test where there is no such interpreter."""


@pytest.fixture(scope="session")
def installed_in(tmp_path_factory: pytest.TempPathFactory) -> InstalledIn:
    """Makes one environment for each version of CPython."""

    @cache
    def installed(version: str) -> str:
        if (python := interpreter(version)) is None:
            pytest.skip(f"no CPython {version} on this machine")
        inside = virtual_environment(tmp_path_factory.mktemp(f"CPython {version}"), python)
        install_into(inside, wheel())
        return inside

    return installed


class RunProgram(Protocol):
    """Runs a program to its end in a fresh interpreter; fails if its exit status is another."""

    def __call__(self, source: str, *options: str, status: int = 0, **environment: str) -> str:
        """Takes source, interpreter options, exit status and variables; returns what the program printed."""


@pytest.fixture
def run_program() -> RunProgram:
    """Runs programs in which any warning is an error and that may write nothing to stderr."""

    def run(source: str, *options: str, status: int = 0, **environment: str) -> str:
        command = [sys.executable, "-W", "error", *options, "-c", textwrap.dedent(source)]
        done = subprocess.run(
            command, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=60
        )
        assert (done.returncode, done.stderr) == (status, "")
        return done.stdout

    return run
