"""The programs of examples/incidents: each moves the figures that it is about, and one command shows it."""

from __future__ import annotations

import importlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from catalogue_names import ALL_NAMES

from runtime_metrics import _core

if TYPE_CHECKING:
    from types import ModuleType

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the programs provoke what Linux shows")

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "examples" / "incidents"
COMMAND = [sys.executable, "-W", "error", str(FOLDER / "provoke.py")]
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "provoke")
TIMEOUT = 60


@pytest.fixture
def incidents(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """The programs by name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return {name: importlib.import_module(name) for name in NAMES}


def test_every_program_is_listed_with_what_it_does(incidents: dict[str, ModuleType]) -> None:
    readme = (FOLDER / "README.md").read_text()
    listed = subprocess.run(COMMAND, capture_output=True, text=True, check=True, timeout=TIMEOUT).stdout
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", readme, re.MULTILINE))
    assert rows.keys() == incidents.keys()
    for name, incident in incidents.items():
        summary = (incident.__doc__ or "").splitlines()[0]
        assert rows[name] == f"{summary} | {incident.LOOK_AT}"
        assert re.search(rf"^{name} +{re.escape(summary)}$", listed, re.MULTILINE)


def test_every_program_is_about_metrics_that_there_are(incidents: dict[str, ModuleType]) -> None:
    assert len(incidents) > 5
    patterns = [(name, pattern) for name, incident in incidents.items() for pattern in incident.METRICS]
    unknown = [it for it in patterns if not any(_core.is_named(metric, it[1]) for metric in ALL_NAMES)]
    assert unknown == []


def test_one_command_shows_the_figure_move() -> None:
    command = [*COMMAND, "holds_gil", "--seconds", "7"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("holds_gil: A C function keeps the GIL")
    shown = re.findall(r"gil\.wait\.max +(\S+) (\S+)$", done.stdout, re.MULTILINE)
    # Calm at first; then a call that keeps it for 3 seconds.
    assert {unit for _, unit in shown} >= {"µs", "s"}
    assert "malformed lines: 0" in done.stdout


def test_ctrl_c_ends_everything() -> None:
    with subprocess.Popen(
        [*COMMAND, "too_few_cpus"], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as command:
        assert command.stdout is not None
        while "runtime.python.cpu.limit" not in (line := command.stdout.readline()):
            assert line
        # The receiver, the program, and two processes that compute while the program is in trouble.
        deadline = time.monotonic() + TIMEOUT
        while len(family := psutil.Process(command.pid).children(recursive=True)) < 4:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        # As a terminal does: to the group in the foreground.
        os.killpg(command.pid, signal.SIGINT)
        command.communicate(timeout=TIMEOUT)
    assert command.returncode == 0
    assert psutil.wait_procs(family, timeout=TIMEOUT)[1] == []
