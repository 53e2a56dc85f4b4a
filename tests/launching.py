"""Environments in which programs are launched, with or without ddtrace."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from peers import PEERS
from serving import ROOT

if TYPE_CHECKING:
    from serving import Reports

RUN = [str(Path(sys.executable).with_name("runtime-metrics")), "run"]

# The interpreter from which the environment of the tests was made: our package is not installed there.
BASE = os.path.realpath(sys.executable)

VERSIONS = ["3.10", "3.11", "3.12", "3.13", "3.14", "3.15"]
# Tests of one version run in one process, which installs the package for it once.
each_version = pytest.mark.parametrize(
    "version",
    [pytest.param(version, marks=pytest.mark.xdist_group(f"CPython {version}")) for version in VERSIONS],
)

# Prints its id, and ends.
PROGRAM = "import os; print(os.getpid())"

SCRIPT = """\
#!{python}
import sys
from {module} import main
sys.exit(main())
"""


@dataclass(frozen=True)
class World:
    """Where a program finds its interpreter and its packages."""

    python: str
    variables: dict[str, str]

    def run(
        self, *command: str, status: int = 0, stdin: str = "", timeout: float = 60, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end; fails if its exit status is another."""
        done = subprocess.run(
            command,
            env=os.environ | self.variables | environment,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        assert done.returncode == status, done.stderr
        return done

    def with_folder(self, folder: Path) -> World:
        """The same, with a folder at the beginning of the search path."""
        search = [str(folder), *filter(None, [self.variables.get("PYTHONPATH")])]
        return World(self.python, self.variables | {"PYTHONPATH": os.pathsep.join(search)})


def with_ddtrace(place: str, folder: Path) -> World:
    """A world with ddtrace, its command and ours: in a virtual environment, or by PYTHONPATH alone."""
    packages = unpacked(folder / "packages")
    (theirs,) = PEERS.glob("lib/python*/site-packages")
    variables = {"DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false", "DD_REMOTE_CONFIGURATION_ENABLED": "false"}
    if place == "virtual environment":
        python = virtual_environment(folder / "venv")
        (own,) = (folder / "venv").glob("lib/python*/site-packages")
        (own / "packages.pth").write_text(f"{packages}\n{theirs}\n")
    else:
        python = BASE
        variables["PYTHONPATH"] = os.pathsep.join([str(packages), str(theirs)])
    scripts = folder / "bin"
    scripts.mkdir()
    modules = {
        "runtime-metrics": "runtime_metrics.cli",
        "ddtrace-run": "ddtrace.commands.ddtrace_run",
    }
    for name, module in modules.items():
        (scripts / name).write_text(SCRIPT.format(python=python, module=module))
        (scripts / name).chmod(0o755)
    search = [str(scripts), str(Path(python).parent), os.environ["PATH"]]
    return World(python, variables | {"PATH": os.pathsep.join(search)})


def virtual_environment(folder: Path, python: str = sys.executable) -> str:
    """Makes an empty environment without pip; returns its interpreter."""
    subprocess.run([python, "-m", "venv", "--without-pip", folder], check=True)
    return str(folder / "bin" / "python")


def install_into(python: str, package: Path) -> None:
    """Installs a package into the environment of an interpreter, with the pip of the tests."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    subprocess.run([*pip, "install", "--quiet", package], check=True)


def wheel() -> Path:
    """The wheel that `make wheel` built."""
    (found,) = (ROOT / "dist").glob("*.whl")
    return found


@cache
def interpreter(version: str) -> str | None:
    """A CPython of this version, on the path or among pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [f"python{version}", *map(str, sorted(pyenv.glob(f"versions/{version}.*/bin/python")))]
    question = "import sys; print(sys.implementation.name, '%d.%d' % sys.version_info[:2])"
    for candidate in candidates:
        try:
            done = subprocess.run([candidate, "-c", question], capture_output=True, text=True, check=False)
        except OSError:
            continue
        if done.stdout.strip() == f"cpython {version}":
            return candidate
    return None


def unpacked(folder: Path) -> Path:
    """Extracts the wheel into a folder for the search path."""
    with zipfile.ZipFile(wheel()) as archive:
        archive.extractall(folder)
    return folder


def flushes_by_process(reports: Reports) -> Counter[int]:
    """How many flushes each process has sent; all must have ended."""
    reports.stop()
    return Counter(report.pid for report in reports if "mem.rss" in report.values)
