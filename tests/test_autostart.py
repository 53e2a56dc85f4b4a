"""The companion runtime-metrics-autostart: a variable alone starts metrics, and costs nothing where it is not set."""

from __future__ import annotations

import pkgutil
import re
import statistics
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from launching import PROGRAM, World, flushes_by_process, virtual_environment
from serving import ROOT

if TYPE_CHECKING:
    from serving import Reports

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="needs Linux, where a Unix socket identifies the sender"
)

ON = {"DD_RUNTIME_METRICS_ENABLED": "true"}
COUNT_LINES = "import sys; sys.times = getattr(sys, 'times', 0) + 1\n"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The interpreter of an environment into which pip has installed us with the extra."""
    python = virtual_environment(tmp_path_factory.mktemp("autostart") / "venv")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    links = [f"--find-links={ROOT / 'dist'}", f"--find-links={ROOT / 'dist' / 'autostart'}"]
    subprocess.run(
        [*pip, "install", "--quiet", "--no-index", *links, "runtime-metrics[autostart]"], check=True
    )
    (site_packages(python) / "count.pth").write_text(COUNT_LINES)
    return python


def site_packages(python: str) -> Path:
    """Where an environment has its packages."""
    (found,) = Path(python).parent.parent.glob("lib/python*/site-packages")
    return found


def test_the_variable_alone_starts_one_collector_even_if_the_line_runs_twice(
    installed: str, reports: Reports
) -> None:
    program = f"{PROGRAM}\nimport sys; print(sys.times)"
    pid, times = map(int, World(installed, ON).run(installed, "-c", program).stdout.split())
    # Virtual environments run each line twice, as seen from 3.10 to 3.13.
    assert times == 2 or sys.version_info >= (3, 14)
    assert flushes_by_process(reports) == {pid: 1}


@pytest.mark.parametrize(
    ("value", "imported"),
    [(None, []), ("", []), *((value, ["runtime_metrics_autostart"]) for value in ("false", "False", "0"))],
)
def test_where_the_variable_is_unset_or_false_almost_nothing_is_imported(
    value: str | None, imported: list[str], installed: str, reports: Reports
) -> None:
    world = World(installed, {} if value is None else {"DD_RUNTIME_METRICS_ENABLED": value})
    modules = world.run(installed, "-c", "import sys; print(*sys.modules)").stdout.split()
    assert "site" in modules
    assert [name for name in modules if name.startswith("runtime_metrics")] == imported
    assert flushes_by_process(reports) == {}


@pytest.mark.parametrize("value", ["true", "TRUE", "1"])
@pytest.mark.parametrize("options", [[], ["-I"], ["-E"], ["-s"]], ids=" ".join)
def test_every_spelling_of_true_starts_metrics_even_where_the_launcher_cannot(
    value: str, options: list[str], installed: str, reports: Reports
) -> None:
    world = World(installed, {"DD_RUNTIME_METRICS_ENABLED": value})
    pid = int(world.run(installed, *options, "-c", PROGRAM).stdout)
    assert flushes_by_process(reports) == {pid: 1}


def test_a_wrong_value_is_one_warning_and_does_not_start(installed: str, reports: Reports) -> None:
    done = World(installed, {"DD_RUNTIME_METRICS_ENABLED": "yes"}).run(installed, "-c", PROGRAM)
    line = 'DD_RUNTIME_METRICS_ENABLED="yes": expected true, false, 1 or 0; false is used'
    assert re.fullmatch(rf"runtime-metrics\[\d+\]: {line}\n", done.stderr), done.stderr
    assert flushes_by_process(reports) == {}


def test_pip_in_that_environment_does_not_start(installed: str, reports: Reports) -> None:
    command = [sys.executable, "-m", "pip", "--python", installed, "list", "--disable-pip-version-check"]
    assert "runtime-metrics-autostart" in World(installed, ON).run(*command).stdout
    assert flushes_by_process(reports) == {}


def test_it_combines_with_every_other_way_to_start(installed: str, reports: Reports) -> None:
    program = (
        "import runtime_metrics.auto; from runtime_metrics import RuntimeMetrics; "
        f"RuntimeMetrics.enable(tags={{'team': 'core'}}); {PROGRAM}"
    )
    command = [installed, "-m", "runtime_metrics", "run", installed, "-W", "error", "-c", program]
    done = World(installed, ON).run(*command)
    assert done.stderr == ""
    assert flushes_by_process(reports) == {int(done.stdout): 1}


def test_without_the_main_package_the_program_runs_normally(tmp_path: Path) -> None:
    python = virtual_environment(tmp_path / "venv")
    with zipfile.ZipFile(companion()) as archive:
        archive.extractall(site_packages(python))
    done = World(python, ON).run(python, "-c", "import runtime_metrics_autostart; print('runs')")
    assert (done.stdout, done.stderr) == ("runs\n", "")


def companion() -> Path:
    """The wheel."""
    (found,) = (ROOT / "dist" / "autostart").glob("*.whl")
    return found


def test_the_wheel_is_a_module_and_two_files_that_call_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(companion()) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        line = archive.read("runtime_metrics_autostart.start").decode().splitlines()[-1]
    assert names == {f"runtime_metrics_autostart.{ending}" for ending in ("py", "pth", "start")}
    # Python 3.15 resolves what to call in this way.
    monkeypatch.syspath_prepend(str(ROOT / "autostart"))
    assert re.fullmatch(r"\w+:\w+", line)
    assert pkgutil.resolve_name(line).__module__ == "runtime_metrics_autostart"


def test_what_python_3_15_calls_starts_if_the_variable_is_true(installed: str, reports: Reports) -> None:
    # With -S, the line has not run before.
    program = (
        "import sys, runtime_metrics_autostart; runtime_metrics_autostart.start(); "
        "print('runtime_metrics' in sys.modules)"
    )
    world = World(installed, {"PYTHONPATH": str(site_packages(installed))})
    for value, imported in (("", "False"), ("false", "False"), ("true", "True")):
        done = world.run(installed, "-S", "-c", program, DD_RUNTIME_METRICS_ENABLED=value)
        assert (done.stdout, done.stderr) == (f"{imported}\n", "")
    assert list(flushes_by_process(reports).values()) == [1]


@pytest.mark.measures
def test_the_line_delays_the_start_of_python_by_less_than_a_third_of_a_millisecond(installed: str) -> None:
    line = site_packages(installed) / "runtime_metrics_autostart.pth"
    content = line.read_text()

    # The CPU time of what the interpreter does with each site-packages folder at its start: unlike the time on a clock,
    # it does not depend on what else runs.
    program = (
        "import site, time; start = time.thread_time_ns(); site.main(); print(time.thread_time_ns() - start)"
    )

    def microseconds() -> float:
        done = subprocess.run([installed, "-S", "-c", program], capture_output=True, text=True, check=True)
        return int(done.stdout) / 1000

    delays = []
    try:
        for _ in range(40):
            with_line = microseconds()
            line.unlink()
            delays.append(with_line - microseconds())
            line.write_text(content)
    finally:
        line.write_text(content)
    # In pairs, as the machine itself is now faster, now slower.
    assert statistics.median(delays) < 300
