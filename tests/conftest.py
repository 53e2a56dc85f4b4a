"""What the tests share: a receiver on a free port, programs in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Protocol

import pytest
from receiving import Flushes
from serving import Reports

from runtime_metrics import RuntimeMetrics

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SETTINGS = ("DATADOG_", "DD_", "OTEL_")

# Tests that run in the background ignore what Ctrl-C sends, and their programs would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on what the shell that runs it exports."""
    for name in os.environ:
        if name.startswith(SETTINGS):
            monkeypatch.delenv(name)


@pytest.fixture
def flushes() -> Iterator[Flushes]:
    """A UDP receiver; metrics are disabled when the test ends."""
    with Flushes.udp() as receiving:
        yield receiving
        RuntimeMetrics.disable()


@pytest.fixture
def reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reports]:
    """What processes report; each sends one flush, at its end."""
    reports = Reports(tmp_path / "dogstatsd")
    monkeypatch.setenv("DD_DOGSTATSD_URL", reports.url)
    monkeypatch.setenv("DD_RUNTIME_METRICS_INTERVAL", "3600")
    yield reports
    reports.stop()


class RunProgram(Protocol):
    """Runs a program to its end in a fresh interpreter; fails if its exit status is another."""

    def __call__(self, source: str, *options: str, status: int = 0, **environment: str) -> str:
        """Takes its source, the interpreter's options, the exit status and variables; gives what it printed."""


@pytest.fixture
def run_program() -> RunProgram:
    """Runs programs, in which any warning is an error and nothing may come out on stderr."""

    def run(source: str, *options: str, status: int = 0, **environment: str) -> str:
        command = [sys.executable, "-W", "error", *options, "-c", textwrap.dedent(source)]
        done = subprocess.run(
            command, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=60
        )
        assert (done.returncode, done.stderr) == (status, "")
        return done.stdout

    return run
