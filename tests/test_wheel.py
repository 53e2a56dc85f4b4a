"""What is shipped: one wheel for every CPython, small, portable, and a source distribution that builds."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from receiving import NAMES

if TYPE_CHECKING:
    from receiving import Flushes

ROOT = Path(__file__).parent.parent
VERSIONS = ["3.10", "3.11", "3.12", "3.13", "3.14", "3.15"]


def wheel() -> Path:
    """The wheel that `make wheel` built."""
    (wheel,) = (ROOT / "dist").glob("*.whl")
    return wheel


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


def virtual_environment(python: str, folder: Path, package: Path) -> str:
    """A fresh environment with nothing but the package; gives its interpreter."""
    subprocess.run([python, "-m", "venv", folder], check=True)
    inside = str(folder / "bin" / "python")
    install = [inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(package)]
    subprocess.run(install, check=True)
    return inside


PROGRAM = """
import time
from runtime_metrics import RuntimeMetrics
RuntimeMetrics.enable(flush_interval=0.2)
time.sleep(0.5)
"""


def assert_all_metrics(python: str, flushes: Flushes, version: str) -> None:
    """Runs a program that is measured, and looks at what arrives."""
    command = [python, "-I", "-W", "error", "-X", "dev", "-c", PROGRAM]
    done = subprocess.run(
        command, env={"DD_DOGSTATSD_URL": flushes.url}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    arrived = flushes.rest()
    # Ticks, and the last sample at the exit.
    assert len(arrived) >= 2
    assert all(sorted(flush.values) == sorted(NAMES) for flush in arrived)
    assert arrived[0].tag("lang_version").startswith(version)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_one_wheel_works_everywhere(version: str, tmp_path: Path, flushes: Flushes) -> None:
    if (python := interpreter(version)) is None:
        pytest.skip(f"no CPython {version} on this machine")
    assert_all_metrics(virtual_environment(python, tmp_path, wheel()), flushes, version)


def test_the_extension_is_small_and_the_wheel_has_nothing_else_of_size() -> None:
    with zipfile.ZipFile(wheel()) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
    extension = sizes.pop("runtime_metrics/_core.abi3.so")
    assert 100_000 < extension <= 900_000
    assert sum(sizes.values()) < 250_000
    assert {"runtime_metrics/py.typed", "runtime_metrics/_core.pyi"} <= sizes.keys()


@pytest.mark.skipif(sys.platform != "linux", reason="auditwheel is about Linux")
def test_auditwheel_agrees_with_the_tag() -> None:
    assert "cp310-abi3-manylinux" in wheel().name
    assert "manylinux_2_17" in wheel().name
    command = [sys.executable, "-m", "auditwheel", "show", str(wheel())]
    shown = " ".join(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert 'This constrains the platform tag to "manylinux_2_17_' in shown


@pytest.mark.skipif(sys.platform != "linux", reason="an unwinder of its own is what zig links on Linux")
def test_the_extension_brings_no_unwinder_of_its_own(tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel()) as archive:
        extension = archive.extract("runtime_metrics/_core.abi3.so", tmp_path)
    # The dynamic section names the libraries that are needed.
    assert b"libgcc_s.so.1" in Path(extension).read_bytes()


def test_the_source_distribution_installs(tmp_path: Path, flushes: Flushes) -> None:
    (sdist,) = (ROOT / "dist").glob("*.tar.gz")
    version = ".".join(map(str, sys.version_info[:2]))
    assert_all_metrics(virtual_environment(sys.executable, tmp_path, sdist), flushes, version)
