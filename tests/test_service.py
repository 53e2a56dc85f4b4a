"""Without a variable, the program names the service: one name, in all of its processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipapp
from typing import TYPE_CHECKING

import pytest
from launching import BASE, RUN, World, each_version, flushes_by_process, unpacked
from serving import SERVERS, need

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import InstalledIn
    from serving import Reports

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="needs Linux, where a Unix socket identifies the sender"
)

IN_SERVERS = str(SERVERS / "bin" / "python")

# A child of each kind, each of which has another.
FAMILY = """
import multiprocessing

def family():
    for method in ("fork", "spawn", "forkserver"):
        child(method, method)

def child(method, of_child=None):
    process = multiprocessing.get_context(method).Process(target=work, args=(of_child,))
    process.start()
    process.join()
    assert process.exitcode == 0

def work(method):
    if method:
        child(method)
"""
MEMBERS = 7
MAIN = "\nif __name__ == '__main__':\n    family()\n"
ENABLE = "from runtime_metrics import RuntimeMetrics\nRuntimeMetrics.enable()\n"


def services(reports: Reports) -> dict[str, int]:
    """How many processes have reported for each service; all must have ended."""
    processes = flushes_by_process(reports)
    pairs = {(report.pid, report.service) for report in reports}
    assert len(pairs) == len(processes)
    names = [service for _, service in pairs]
    return {name: names.count(name) for name in names}


@pytest.mark.parametrize(
    ("command", "service"), [("shop.py", "shop"), ("-m stock", "stock"), ("-m stock.count", "stock.count")]
)
@each_version
def test_all_processes_of_a_program_have_its_name(
    version: str,
    command: str,
    service: str,
    installed_in: InstalledIn,
    reports: Reports,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "stock").mkdir()
    (tmp_path / "stock" / "__init__.py").touch()
    (tmp_path / "shop.py").write_text(FAMILY + MAIN)
    (tmp_path / "stock" / "count.py").write_text(FAMILY + MAIN)
    (tmp_path / "stock" / "__main__.py").write_text("from stock.count import family\n" + MAIN)
    monkeypatch.chdir(tmp_path)
    python = installed_in(version)
    World(python, {}).run(*RUN, python, *command.split())
    assert services(reports) == {service: MEMBERS}


# Each worker gets one of two jobs, as it waits for the other worker.
WORK = """
import os, time

def work(number):
    open(f"working/{number}", "w").close()
    deadline = time.monotonic() + 40
    while len(os.listdir("working")) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return os.getpid()

"""
POOLS = {
    "loky": "import loky\nids = loky.get_reusable_executor(2).map(work, range(2))",
    "joblib": "import joblib\nids = joblib.Parallel(2, batch_size=1)(joblib.delayed(work)(n) for n in range(2))",
    **{
        f"{package} {method}": (
            f"import {package}\nwith {package}.get_context('{method}').Pool(2) as pool:\n"
            "    ids = pool.map(work, range(2), 1)\n    pool.close()\n    pool.join()"
        )
        for package in ("multiprocess", "billiard")
        for method in ("spawn", "forkserver")
    },
}


@pytest.mark.parametrize("pool", POOLS)
def test_workers_of_other_libraries_have_the_name_and_their_helpers_do_not_report(
    pool: str, reports: Reports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers and trackers of loky, and those of multiprocessing's copies."""
    need(pool.split()[0])
    indented = POOLS[pool].replace("\n", "\n    ")
    (tmp_path / "shop.py").write_text(
        WORK + f"if __name__ == '__main__':\n    {indented}\n    print(os.getpid(), *ids)\n"
    )
    (tmp_path / "working").mkdir()
    # loky kills its workers at the end.
    monkeypatch.setenv("DD_RUNTIME_METRICS_INTERVAL", "0.01")
    monkeypatch.chdir(tmp_path)
    done = World(IN_SERVERS, {}).run(*RUN, IN_SERVERS, "shop.py")
    processes = set(map(int, done.stdout.split()))
    assert len(processes) == 3
    assert set(flushes_by_process(reports)) == processes
    assert {report.service for report in reports} == {"shop"}


def test_a_program_that_has_given_itself_a_title_passes_its_name_on(reports: Reports, tmp_path: Path) -> None:
    need("setproctitle")
    title = MAIN.replace(
        "family()", "import setproctitle; setproctitle.setproctitle('shop: master'); family()"
    )
    (tmp_path / "shop.py").write_text(ENABLE + FAMILY + title)
    World(IN_SERVERS, {}).run(IN_SERVERS, str(tmp_path / "shop.py"))
    assert services(reports) == {"shop": MEMBERS}


# Programs that are packed with their packages


PACKED = ENABLE + FAMILY

SPEC = """
analysis = Analysis(["convert.py"], pathex=[{packages!r}])
pyz = PYZ(analysis.pure)
EXE(pyz, analysis.scripts, analysis.binaries, analysis.datas, name="convert")
COLLECT(
    EXE(pyz, analysis.scripts, exclude_binaries=True, name="convert"), analysis.binaries, analysis.datas, name="folder"
)
"""


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which PyInstaller has packed a program, as one file and as a folder."""
    need("pyinstaller")
    folder = tmp_path_factory.mktemp("frozen")
    (folder / "convert.py").write_text(
        PACKED + MAIN.replace("family()", "multiprocessing.freeze_support(); family()")
    )
    packages = unpacked(folder / "packages")
    (folder / "convert.spec").write_text(SPEC.format(packages=str(packages)))
    command = [str(SERVERS / "bin" / "pyinstaller"), "--log-level", "ERROR", "convert.spec"]
    environment = os.environ | {"PYINSTALLER_CONFIG_DIR": str(folder / "cache")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "dist"


# PyInstaller takes half a minute, more on a busy machine.
@pytest.mark.timeout(600)
@pytest.mark.parametrize("program", ["convert", "folder/convert"])
def test_a_frozen_program_has_the_name_of_its_file_and_not_of_its_argument(
    program: str, frozen: Path, reports: Reports
) -> None:
    World("", {}).run(str(frozen / program), "/data/invoice-4711.pdf", timeout=250)
    assert services(reports) == {"convert": MEMBERS}


def packed(kind: str, sources: Path, packages: Path) -> tuple[str, Path]:
    """Packs the program; returns the interpreter that is to run it, and the file."""
    archive = sources.parent / f"shop.{kind.split()[0]}"
    tool = str(SERVERS / "bin" / kind.split()[0])
    if kind == "pyz":
        # An extension module cannot be imported from it.
        (sources / "__main__.py").write_text("import shop\nshop.family()\n")
        zipapp.create_archive(sources, archive)
        return IN_SERVERS, archive
    if kind == "shiv":
        shutil.copy(sources / "shop.py", packages)
        command = [tool, "--site-packages", str(packages), "-e", "shop:family", "-o", str(archive)]
    else:
        command = [tool, "-D", str(sources), "-D", str(packages), "-e", "shop:family", "-o", str(archive)]
        command += kind.split()[1:]
    need(kind.split()[0])
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return BASE, archive


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["pyz", "shiv", "pex", "pex --venv"])
def test_an_archive_has_the_name_of_its_file(kind: str, reports: Reports, tmp_path: Path) -> None:
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "shop.py").write_text(PACKED)
    python, archive = packed(kind, tmp_path / "sources", unpacked(tmp_path / "packages"))
    roots = {"PEX_ROOT": str(tmp_path / "pex"), "SHIV_ROOT": str(tmp_path / "shiv")}
    World(python, roots).run(python, str(archive), "invoice-4711.pdf", timeout=250)
    assert services(reports) == {"shop": MEMBERS}
