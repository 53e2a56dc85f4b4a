"""What is shipped: one wheel for every CPython, small, portable, and a source distribution that builds."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import crates
import pytest
import wheel_checks
from catalogue_names import assert_complete
from launching import each_version, install_into, virtual_environment, wheel
from serving import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import InstalledIn
    from receiving import Flushes

PROGRAM = """
import time
from runtime_metrics import RuntimeMetrics
# A tick waits a tenth of the interval for the interpreter, which a busy machine may let wait as well.
RuntimeMetrics.enable(flush_interval=1)
time.sleep(1.5)
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
    assert_complete(*(flush.values for flush in arrived))
    assert arrived[0].tag("lang_version").startswith(version)


@each_version
def test_the_one_wheel_works_everywhere(version: str, installed_in: InstalledIn, flushes: Flushes) -> None:
    assert_all_metrics(installed_in(version), flushes, version)


THREADS = """
import gc, logging, threading
from runtime_metrics import RuntimeMetrics

logging.basicConfig()
logging.captureWarnings(True)
found = set()

def work():
    for _ in range(25):
        # With the arguments in effect, a second call does nothing.
        RuntimeMetrics.enable(flush_interval=0.01)
        RuntimeMetrics.flush()
        gc.collect(0)
        found.add(gc.callbacks.count(mine) if (mine := ours()) else 0)
        RuntimeMetrics.snapshot()
        RuntimeMetrics.disable()

def ours():
    return next((entry for entry in list(gc.callbacks) if "GcCallback" in repr(entry)), None)

threads = [threading.Thread(target=work) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(sorted(found - {0}), gc.callbacks)
"""


@each_version
def test_threads_that_call_everything_at_once_leave_one_callback_and_then_none(
    version: str, installed_in: InstalledIn, flushes: Flushes
) -> None:
    # On a free-threaded build this is what finds a list that is read and changed in two steps.
    done = subprocess.run(
        [installed_in(version), "-I", "-c", THREADS],
        env={"DD_DOGSTATSD_URL": flushes.url},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "[1] []\n"), done.stderr
    assert "cleared" not in done.stderr


def test_the_wheel_is_small_portable_and_complete() -> None:
    assert wheel_checks.faults(wheel()) == []


@pytest.mark.parametrize(
    ("part", "instead", "fault"),
    [
        ("WHEEL", b"manylinux_2_17", "its name and its metadata differ"),
        ("licenses/THIRD-PARTY-LICENSES", None, "it has no "),
        ("_core.pyi", None, "it has no runtime_metrics/_core.pyi"),
        ("_core.abi3.so", b"libgcc_s.so.1", "it needs libgxx_s.so.1"),
        ("_core.abi3.so", b"libgcc_s.so.1", "it has an unwinder of its own"),
        ("_core.abi3.so", b"GLIBC_2.17", "it needs glibc (2, 99)"),
        ("_core.abi3.so", b"PyModuleDef_Init", "it uses what is not in the stable ABI: ['PyModuleDef_Inxx']"),
    ],
)
def test_the_checks_notice_a_mistake(part: str, instead: bytes | None, fault: str, tmp_path: Path) -> None:
    mistaken = {b"libgcc_s.so.1": b"libgxx_s.so.1", b"GLIBC_2.17": b"GLIBC_2.99"}
    other = tmp_path / wheel().name
    with zipfile.ZipFile(wheel()) as source, zipfile.ZipFile(other, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith(part):
                if instead is None:
                    continue
                assert instead in content
                content = content.replace(instead, mistaken.get(instead, instead[:-2] + b"xx"))
            target.writestr(name, content)
    assert [found for found in wheel_checks.faults(other) if found.startswith(fault)]


def test_the_bill_of_materials_names_every_crate_in_the_wheel() -> None:
    with zipfile.ZipFile(wheel()) as archive:
        (name,) = (name for name in archive.namelist() if "/sboms/" in name)
        bill = json.loads(archive.read(name))
    listed = {(component["name"], component["version"]) for component in bill["components"]}
    assert bill["bomFormat"] == "CycloneDX"
    assert [c.name for c in crates.crates() if (c.name, c.version) not in listed] == []


@pytest.mark.skipif(sys.platform != "linux", reason="auditwheel is about Linux")
def test_auditwheel_agrees_with_the_tag() -> None:
    assert "cp310-abi3-manylinux" in wheel().name
    assert "manylinux_2_17" in wheel().name
    command = [sys.executable, "-m", "auditwheel", "show", str(wheel())]
    shown = " ".join(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert 'This constrains the platform tag to "manylinux_2_17_' in shown


def test_the_source_distribution_installs(
    tmp_path: Path, flushes: Flushes, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whether everything is there does not depend on the optimisations, which take most of the time.
    for setting, value in {"CODEGEN_UNITS": "16", "LTO": "off", "OPT_LEVEL": "0"}.items():
        monkeypatch.setenv(f"CARGO_PROFILE_RELEASE_{setting}", value)
    (sdist,) = (ROOT / "dist").glob("*.tar.gz")
    version = ".".join(map(str, sys.version_info[:2]))
    python = virtual_environment(tmp_path / "venv")
    install_into(python, sdist)
    assert_all_metrics(python, flushes, version)
