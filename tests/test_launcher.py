"""`runtime-metrics run` and `import runtime_metrics.auto`: the program runs as without us, and is measured."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from launching import (
    BASE,
    PROGRAM,
    RUN,
    World,
    each_version,
    flushes_by_process,
    unpacked,
    virtual_environment,
    wheel,
    with_ddtrace,
)
from peers import PEERS
from serving import SERVERS, need

from runtime_metrics import _core, automatic
from runtime_metrics.cli.run import BOOTSTRAP, _is_python, unreachable

if TYPE_CHECKING:
    from conftest import InstalledIn
    from receiving import Flushes
    from serving import Reports

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="needs Linux, where a Unix socket identifies the sender"
)

SITE_PACKAGES = str(Path(BOOTSTRAP).parent.parent)
BARE = World(sys.executable, {})


@pytest.fixture(scope="session", params=["virtual environment", "PYTHONPATH"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    """With ddtrace."""
    need("ddtrace", among=PEERS)
    return with_ddtrace(request.param, tmp_path_factory.mktemp("world"))


# The program runs as without us


@pytest.mark.parametrize(
    "launcher",
    [RUN, [sys.executable, "-m", "runtime_metrics", "run"], [*RUN, "--"]],
    ids=lambda words: words[-1],
)
def test_the_program_replaces_the_launcher_and_reports_at_its_end(
    launcher: list[str], reports: Reports
) -> None:
    command = [*launcher, sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        output, _ = process.communicate()
    assert (process.returncode, int(output)) == (0, process.pid)
    assert flushes_by_process(reports) == {process.pid: 1}


def test_the_program_gets_its_arguments_unchanged() -> None:
    program = "import sys; print(sys.orig_argv)"
    words = ["python", "-c", program, "--help", "--", "-h", "", "a b", "run"]
    done = BARE.run(*RUN, *words, PATH=str(Path(sys.executable).parent))
    assert done.stdout.strip() == repr(words)


def test_the_program_gets_the_standard_input() -> None:
    text = "one\ntwo\n" * 100_000
    assert BARE.run(
        *RUN, sys.executable, "-c", "import sys; print(len(sys.stdin.read()))", stdin=text
    ).stdout == (f"{len(text)}\n")


def test_the_environment_differs_by_one_folder_in_the_search_path() -> None:
    command = [sys.executable, "-c", "import json, os; print(json.dumps(dict(os.environ)))"]
    unset: dict[str, str] = {}
    for inherited in (unset, {"PYTHONPATH": ""}, {"PYTHONPATH": "/one"}, {"PYTHONPATH": "/one::/two"}):
        world = World(sys.executable, inherited)
        without, launched = (json.loads(world.run(*launcher, *command).stdout) for launcher in ([], RUN))
        expected = os.pathsep.join(filter(None, [BOOTSTRAP, inherited.get("PYTHONPATH")]))
        assert launched == without | {"PYTHONPATH": expected}
        # Nested, it is there already.
        assert json.loads(world.run(*RUN, *RUN, *command).stdout) == launched


@pytest.mark.parametrize("status", [0, 1, 3, 255])
def test_the_exit_code_is_the_programs(status: int) -> None:
    BARE.run(*RUN, sys.executable, "-c", f"raise SystemExit({status})", status=status)


@pytest.mark.parametrize(
    ("program", "sent", "status"),
    [
        ("", signal.SIGTERM, -signal.SIGTERM),
        ("", signal.SIGINT, -signal.SIGINT),
        ("signal.signal(signal.SIGUSR1, lambda *_: sys.exit(5))", signal.SIGUSR1, 5),
        ("signal.signal(signal.SIGTERM, lambda *_: sys.exit(6))", signal.SIGTERM, 6),
    ],
)
def test_a_signal_to_the_launcher_is_the_programs(program: str, sent: int, status: int) -> None:
    source = f"import signal, sys; {program}\nprint('ready', flush=True)\nwhile True: signal.pause()"
    pipe = subprocess.PIPE
    with subprocess.Popen([*RUN, sys.executable, "-c", source], stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(sent)
        process.communicate(timeout=60)
    assert process.returncode == status


WAITING = "import sys; from runtime_metrics.cli.run import _wait_for; sys.exit(_wait_for(sys.argv[1:]))"


@pytest.mark.parametrize("status", [0, 3])
def test_where_no_program_replaces_another_the_launcher_waits_for_it(status: int) -> None:
    program = f"print('runs'); raise SystemExit({status})"
    done = BARE.run(sys.executable, "-c", WAITING, sys.executable, "-c", program, status=status)
    assert done.stdout == "runs\n"


def test_a_launcher_that_waits_leaves_an_interrupt_to_the_program() -> None:
    program = "import signal, sys; signal.signal(signal.SIGINT, lambda *_: sys.exit(6)); print(flush=True)"
    command = [sys.executable, "-c", WAITING, sys.executable, "-c", f"{program}\nwhile True: signal.pause()"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as launcher:
        assert launcher.stdout is not None
        launcher.stdout.readline()
        # As a console does to all of its programs.
        os.killpg(launcher.pid, signal.SIGINT)
        assert launcher.wait(60) == 6


@pytest.mark.parametrize("name", ["PIPE", "XFSZ", "TERM"])
def test_no_signal_is_ignored_that_was_not_before(name: str) -> None:
    done = BARE.run(*RUN, "sh", "-c", f"kill -{name} $$; echo alive", status=-signal.Signals[f"SIG{name}"])
    assert done.stdout == ""


def test_a_command_that_cannot_be_run_is_one_line_and_the_shells_exit_code(tmp_path: Path) -> None:
    (tmp_path / "app.py").touch()
    (tmp_path / "text").write_text("no program")
    (tmp_path / "text").chmod(0o755)
    (tmp_path / "orphan").write_text("#!/no/such/interpreter\n")
    (tmp_path / "orphan").chmod(0o755)
    cases = {
        "no-such-command": (127, "command not found"),
        "/no/such/command": (127, "no such file"),
        f"{tmp_path}/app.py/x": (127, "no such file"),
        f"{tmp_path}/app.py": (
            126,
            f"Permission denied; did you mean `runtime-metrics run python {tmp_path}/app.py`?",
        ),
        f"{tmp_path}/text": (
            126,
            f"Exec format error; did you mean `runtime-metrics run python {tmp_path}/text`?",
        ),
        f"{tmp_path}/orphan": (126, "the interpreter in its first line does not exist"),
        str(tmp_path): (126, "Permission denied"),
    }
    for command, (status, reason) in cases.items():
        done = BARE.run(*RUN, command, "argument", status=status)
        assert (done.stdout, done.stderr) == ("", f"runtime-metrics run: {command}: {reason}\n")


@pytest.mark.parametrize(("mode", "meant"), [(0o644, "python app.py"), (0o755, "./app.py")])
def test_a_file_that_is_not_on_the_path_is_said_to_be_run_in_another_way(
    mode: int, meant: str, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "app.py").chmod(mode)
    command = [*RUN, "app.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    hint = f"did you mean `runtime-metrics run {meant}`?"
    assert (done.returncode, done.stdout) == (127, "")
    assert done.stderr == f"runtime-metrics run: app.py: command not found; {hint}\n"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "a command is missing"),
        (["--"], "a command is missing"),
        (["--fast", "x"], "unknown option --fast"),
        (["--hlep"], "unknown option --hlep; did you mean --help?"),
        (["-m", "x"], "unknown option -m; did you mean `runtime-metrics run python -m ...`?"),
    ],
)
def test_a_wrong_command_line_is_explained(words: list[str], reason: str) -> None:
    usage = "usage: runtime-metrics run [-h] [--] command [argument ...]"
    done = BARE.run(*RUN, *words, status=2)
    assert (done.stdout, done.stderr) == ("", f"{usage}\nruntime-metrics run: error: {reason}\n")


@each_version
def test_launching_imports_almost_nothing(version: str, installed_in: InstalledIn) -> None:
    loaded = "from runtime_metrics.cli import run; print(*set(sys.modules) - before)"
    source = f"import sys; before = set(sys.modules); {loaded}"
    modules = set(BARE.run(installed_in(version), "-c", source).stdout.split())
    assert modules <= {
        "__future__",
        "runtime_metrics",
        "runtime_metrics._core",
        "runtime_metrics.automatic",
        "runtime_metrics.cli",
        "runtime_metrics.cli.run",
        "runtime_metrics.messages",
    }


# Beside other bootstraps


USERS = "import sys; sys.users = getattr(sys, 'users', 0) + 1"
REPORT = """
import json, os, sys, time
from contextlib import suppress
from runtime_metrics import RuntimeMetrics
def threads():
    for task in os.listdir("/proc/self/task"):
        # Some threads of ddtrace end at once.
        with suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/self/task/{task}/comm") as comm:
            yield comm.read().strip()
# A thread has its name only once it runs.
deadline = time.monotonic() + 20
while "rtm-sampler" not in (names := list(threads())):
    assert time.monotonic() < deadline, names
print(json.dumps({
    "pid": os.getpid(),
    "ddtrace": "ddtrace" in sys.modules,
    "enabled": RuntimeMetrics._enabled,
    "users": getattr(sys, "users", 0),
    "samplers": names.count("rtm-sampler"),
}))
"""
NESTINGS = {
    "ours alone": ("runtime-metrics run python", "", False),
    "ours twice": ("runtime-metrics run runtime-metrics run python", "", False),
    "ours around theirs": ("runtime-metrics run ddtrace-run python", "", True),
    "theirs around ours": ("ddtrace-run runtime-metrics run python", "", True),
    "ours around theirs around ours": (
        "runtime-metrics run ddtrace-run runtime-metrics run python",
        "",
        True,
    ),
    "theirs imported inside ours": ("runtime-metrics run python", "import ddtrace.auto\n", True),
    "ours imported inside theirs": ("ddtrace-run python", "import runtime_metrics.auto\n", True),
}


@pytest.mark.parametrize(
    ("world", "users"),
    [("virtual environment", False), ("virtual environment", True), ("PYTHONPATH", True)],
    ids=lambda value: str(value),
    indirect=["world"],
)
@pytest.mark.parametrize("nesting", NESTINGS)
def test_one_collector_runs_and_so_does_every_bootstrap(
    nesting: str, users: bool, world: World, reports: Reports, tmp_path: Path
) -> None:
    command, beginning, ddtrace = NESTINGS[nesting]
    if users:
        (tmp_path / "sitecustomize.py").write_text(USERS)
        world = world.with_folder(tmp_path)
    done = world.run(*command.split(), "-c", beginning + REPORT)
    report = json.loads(done.stdout)
    pid = report.pop("pid")
    assert report == {"ddtrace": ddtrace, "enabled": True, "users": int(users), "samplers": 1}
    assert flushes_by_process(reports) == {pid: 1}
    assert "sitecustomize" not in done.stderr


def test_a_sitecustomize_of_the_virtual_environment_is_run(reports: Reports, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    (own,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (own / "ours.pth").write_text(SITE_PACKAGES)
    (own / "sitecustomize.py").write_text(USERS)
    program = "import sitecustomize, sys; print(sys.users, sitecustomize.__file__)"
    done = BARE.run(*RUN, str(tmp_path / "venv" / "bin" / "python"), "-c", program)
    assert (done.stdout, done.stderr) == (f"1 {own}/sitecustomize.py\n", "")
    assert list(flushes_by_process(reports).values()) == [1]


def test_without_a_sitecustomize_ours_remains_and_the_search_path_is_as_it_was() -> None:
    done = BARE.run(
        *RUN, sys.executable, "-c", "import sys, sitecustomize; print(sitecustomize.__file__, sys.path[1])"
    )
    assert done.stdout == f"{BOOTSTRAP}/sitecustomize.py {BOOTSTRAP}\n"


@pytest.mark.parametrize(
    "source", ["raise RuntimeError('theirs')", "import no_such_module", "raise ImportError", "def"]
)
def test_a_broken_sitecustomize_is_reported_as_without_us(
    source: str, reports: Reports, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(source)
    without, launched = (
        BARE.run(*launcher, sys.executable, "-c", "print('runs')", PYTHONPATH=str(tmp_path))
        for launcher in ([], RUN)
    )
    assert without.stderr.startswith("Error in sitecustomize")
    # The interpreter of the launcher has run it as well.
    assert (launched.stdout, launched.stderr) == ("runs\n", without.stderr * 2)
    assert list(flushes_by_process(reports).values()) == [1]


def test_a_tag_given_in_code_arrives_and_one_collector_runs(flushes: Flushes) -> None:
    enable = "from runtime_metrics import RuntimeMetrics; RuntimeMetrics.enable(tags={'team': 'core'})\n"
    done = BARE.run(*RUN, sys.executable, "-c", enable + REPORT, DD_DOGSTATSD_URL=flushes.url)
    assert json.loads(done.stdout)["samplers"] == 1
    assert done.stderr == ""
    (flush,) = flushes.rest()
    assert flush.tag("team") == "core"


# Children, and programs that are no application


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_children_report_once_and_their_helper_processes_never(
    method: str, reports: Reports, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        f"""
import json, multiprocessing, os

if __name__ == "__main__":
    context = multiprocessing.get_context("{method}")
    lock = context.Lock()  # Brings the resource tracker.
    child = context.Process(target=print, args=("child",))
    child.start()
    child.join()
    print(json.dumps([os.getpid(), child.pid]))
"""
    )
    done = BARE.run(*RUN, sys.executable, str(program))
    assert done.stderr == ""
    pids = json.loads(done.stdout.splitlines()[-1])
    assert flushes_by_process(reports) == dict.fromkeys(pids, 1)
    assert {report.service for report in reports} == {"program"}


def test_the_fork_server_has_no_thread_of_ours(reports: Reports, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        """
import multiprocessing, os
from multiprocessing.forkserver import _forkserver

if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    child = context.Process(target=print, args=("child",))
    child.start()
    child.join()
    print(len(os.listdir(f"/proc/{_forkserver._forkserver_pid}/task")))
"""
    )
    assert BARE.run(*RUN, sys.executable, str(program)).stdout == "child\n1\n"
    assert len(flushes_by_process(reports)) == 2


def auxiliary() -> dict[str, list[str]]:
    """Commands that run no application, by what identifies them; those without words have separate tests."""
    scripts = Path(sys.executable).parent
    (runner,) = Path(SITE_PACKAGES).glob("pip/__pip-runner__.py")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {
        "-m ddtrace.commands.ddtrace_run": [],
        "ddtrace-run": [],
        "-m ensurepip": [sys.executable, "-m", "ensurepip", "--version"],
        "-m pip": [sys.executable, "-Wignore", "-Bm", "pip", "--version"],
        "-m runtime_metrics": [sys.executable, "-m", "runtime_metrics", "catalogue"],
        "-m venv": [sys.executable, "-X", "utf8", "-mvenv", "--help"],
        "-c resource_tracker": [
            sys.executable,
            "-c",
            "from multiprocessing.resource_tracker import main;main(0)",
        ],
        "-c semaphore_tracker": [
            str(SERVERS / "bin" / "python"),
            "-Bc",
            "from billiard.semaphore_tracker import main;main(0)",
        ],
        "_in_process.py": [],
        "__pip-runner__.py": [sys.executable, str(runner), "--version"],
        "pip": [str(scripts / f"pip{version}"), "--version"],
        "runtime-metrics": [str(scripts / "runtime-metrics"), "catalogue"],
    }


AUXILIARY = auxiliary()


def test_each_auxiliary_program_has_a_test() -> None:
    assert set(AUXILIARY) == {
        *(f"-m {name}" for name in automatic.AUXILIARY_MODULES),
        *(f"-c {code}" for code in automatic.AUXILIARY_CODE),
        *automatic.AUXILIARY_SCRIPTS,
    }


@pytest.mark.parametrize("name", [name for name, command in AUXILIARY.items() if command])
def test_an_auxiliary_program_does_not_start(name: str, reports: Reports) -> None:
    BARE.run(*RUN, *AUXILIARY[name])
    assert flushes_by_process(reports) == {}


def test_the_build_of_a_package_does_not_start(reports: Reports, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (tmp_path / "backend.py").write_text(
        "def build_wheel(*_):\n    open('built', 'w').close()\n    raise SystemExit('no wheel')\n"
    )
    command = ["-m", "pip", "wheel", "--quiet", "--no-index", "--no-build-isolation", str(tmp_path)]
    BARE.run(*RUN, sys.executable, *command, status=1)
    assert (tmp_path / "built").exists()
    assert flushes_by_process(reports) == {}


@pytest.mark.parametrize("command", ["ddtrace-run", "python -m ddtrace.commands.ddtrace_run"])
def test_the_interpreter_of_ddtrace_run_does_not_start(command: str, world: World, reports: Reports) -> None:
    assert "ddtrace-run" in world.run("runtime-metrics", "run", *command.split(), "--version").stdout
    assert flushes_by_process(reports) == {}


@pytest.mark.parametrize(
    "words",
    [["-c", PROGRAM], ["-c", PROGRAM, "pip"], ["-m", "timeit", "-n1", "-r1"], ["-Wdefault", "-c", PROGRAM]],
)
def test_any_other_program_starts_metrics(words: list[str], reports: Reports) -> None:
    BARE.run(*RUN, sys.executable, *words)
    assert list(flushes_by_process(reports).values()) == [1]


def test_a_program_that_is_replaced_at_once_sends_nothing(reports: Reports) -> None:
    replaced = f"import os, sys; os.execv(sys.executable, [sys.executable, '-c', {PROGRAM!r}])"
    pid = int(BARE.run(*RUN, sys.executable, "-c", replaced).stdout)
    assert flushes_by_process(reports) == {pid: 1}
    assert len({report.runtime_id for report in reports}) == 1


def test_the_bootstrap_imports_no_module_in_a_program_that_does_not_start() -> None:
    program = "import sys; print(*sys.modules)"
    tracker = f"from multiprocessing.resource_tracker import main; {program}"
    for source, switch in ((program, "false"), (tracker, "true")):
        world = World(sys.executable, {"DD_RUNTIME_METRICS_ENABLED": switch})
        without, launched = (
            set(world.run(*launcher, sys.executable, "-c", source).stdout.split()) for launcher in ([], RUN)
        )
        assert "os" in without
        assert launched - without == {"sitecustomize"}


def test_a_start_imports_nothing_that_gevent_would_patch(reports: Reports) -> None:
    program = "import sys; print(*sys.modules)"
    modules = set(BARE.run(*RUN, sys.executable, "-c", program).stdout.split())
    assert "runtime_metrics._core" in modules
    assert modules.isdisjoint({"logging", "select", "signal", "socket", "threading"})
    assert len(flushes_by_process(reports)) == 1


# Switches


@pytest.mark.parametrize(
    ("value", "starts"),
    [("", 1), ("true", 1), ("True", 1), ("1", 1), ("false", 0), ("FALSE", 0), ("0", 0)],
)
@pytest.mark.parametrize("way", [RUN, []], ids=["launcher", "import"])
def test_the_variable_switches_automatic_starts(
    way: list[str], value: str, starts: int, reports: Reports
) -> None:
    source = PROGRAM if way else f"import runtime_metrics.auto\n{PROGRAM}"
    done = BARE.run(*way, sys.executable, "-c", source, DD_RUNTIME_METRICS_ENABLED=value)
    assert done.stderr == ""
    assert list(flushes_by_process(reports).values()) == [1] * starts


def test_a_wrong_switch_is_one_warning_and_the_default(reports: Reports) -> None:
    done = BARE.run(*RUN, sys.executable, "-c", PROGRAM, DD_RUNTIME_METRICS_ENABLED="maybe")
    (row,) = [row for row in _core.variables() if row.name == "DD_RUNTIME_METRICS_ENABLED"]
    (line,) = done.stderr.splitlines()
    name, _, text = line.partition(": ")
    assert re.fullmatch(r"runtime-metrics\[\d+\]", name), line
    assert text == f'{row.name}="maybe": expected {row.accepts}; {row.default} is used'
    assert list(flushes_by_process(reports).values()) == [1]


@pytest.mark.parametrize("value", ["none", "None"])
def test_an_exporter_of_none_turns_automatic_starts_off_with_one_line(value: str, reports: Reports) -> None:
    line = "runtime metrics are not started automatically: OTEL_METRICS_EXPORTER is none"
    again = f"import runtime_metrics.auto; {PROGRAM}"
    done = BARE.run(*RUN, sys.executable, "-c", again, OTEL_METRICS_EXPORTER=value)
    assert re.fullmatch(rf"runtime-metrics\[\d+\]: {line}\n", done.stderr), done.stderr
    logged = (
        "import logging, sys; logging.basicConfig(format='%(name)s %(levelname)s %(message)s', stream=sys.stdout)\n"
        "import runtime_metrics.auto"
    )
    done = BARE.run(sys.executable, "-c", logged, OTEL_METRICS_EXPORTER=value)
    assert re.fullmatch(rf"runtime_metrics WARNING runtime-metrics\[\d+\]: {line}\n", done.stdout), (
        done.stdout
    )
    assert done.stderr == ""
    assert flushes_by_process(reports) == {}


@pytest.mark.parametrize("value", ["none", "otlp"])
def test_no_switch_stops_an_explicit_start(value: str, reports: Reports) -> None:
    source = (
        "from runtime_metrics import RuntimeMetrics; RuntimeMetrics.enable(); import runtime_metrics.auto"
    )
    for switch in ({"DD_RUNTIME_METRICS_ENABLED": "false"}, {"OTEL_METRICS_EXPORTER": value}):
        assert World(sys.executable, switch).run(sys.executable, "-c", source).stderr == ""
    assert list(flushes_by_process(reports).values()) == [1, 1]


# Interpreters that the launcher cannot reach


@pytest.mark.parametrize("options", ["-I", "-E", "-S", "-BI", "-W ignore -E"])
def test_an_interpreter_that_ignores_the_search_path_runs_as_without_us_and_import_works(
    options: str, reports: Reports
) -> None:
    done = BARE.run(*RUN, sys.executable, *options.split(), "-c", "print('runs')")
    assert done.stdout == "runs\n"
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"runtime-metrics run: python -{options[-1]} ")
    assert "`import runtime_metrics.auto`" in line
    # -S leaves out the folder of packages.
    source = f"import sys; sys.path.append({SITE_PACKAGES!r}); import runtime_metrics.auto; {PROGRAM}"
    pid = int(BARE.run(sys.executable, *options.split(), "-c", source).stdout)
    assert flushes_by_process(reports) == {pid: 1}


def test_a_script_gets_its_own_options_without_a_warning(reports: Reports, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(PROGRAM)
    for words in (["-W", "error", str(tmp_path / "app.py"), "-I"], ["-c", PROGRAM, "-S"]):
        assert BARE.run(*RUN, sys.executable, *words).stderr == ""
    assert len(flushes_by_process(reports)) == 2


def test_launching_uwsgi_gives_a_warning(tmp_path: Path) -> None:
    (tmp_path / "uwsgi").write_text("#!/bin/sh\necho runs\n")
    (tmp_path / "uwsgi").chmod(0o755)
    done = BARE.run(*RUN, "uwsgi", PATH=str(tmp_path))
    assert done.stdout == "runs\n"
    assert done.stderr.count("\n") == 1
    assert "`import runtime_metrics.auto`" in done.stderr


def other_interpreter(version: str) -> str:
    """An interpreter in which we are not installed."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = [
        *map(str, sorted(pyenv.glob(f"versions/{version}.*/bin/python{version}"))),
        shutil.which(f"python{version}"),
    ]
    if found[0] is None:
        pytest.skip(f"no Python {version} on this machine")
    return found[0]


def missing_in(python: str) -> str:
    """The warning that we are not installed in an interpreter."""
    reason = f"{python} cannot import runtime_metrics"
    return f"runtime-metrics run: {reason}; nothing will be reported unless it is installed there\n"


@pytest.mark.parametrize("version", ["2.7", "3.6", "3.9", "3.10", "3.12", "3.13"])
def test_another_interpreter_runs_as_without_us_after_a_warning(
    version: str, reports: Reports, tmp_path: Path
) -> None:
    python = other_interpreter(version)
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.users = 1")
    for users in ("", str(tmp_path)):
        program = "import sys; sys.stdout.write(str(getattr(sys, 'users', 0)))"
        done = BARE.run(*RUN, python, "-B", "-c", program, PYTHONPATH=users)
        assert (done.stdout, done.stderr) == (str(int(bool(users))), missing_in(python))
    assert flushes_by_process(reports) == {}


def test_a_script_of_an_interpreter_without_us_runs_after_a_warning(tmp_path: Path) -> None:
    script = tmp_path / "app"
    for line in (f"#!{BASE}", f"#!/usr/bin/env -S {BASE} -u"):
        script.write_text(f"{line}\nprint('runs')\n")
        script.chmod(0o755)
        done = BARE.run(*RUN, str(script))
        assert (done.stdout, done.stderr) == ("runs\n", missing_in(BASE))
    script.write_text(f"#!{sys.executable} -E\nprint('runs')\n")
    assert "-E ignores PYTHONPATH" in BARE.run(*RUN, str(script)).stderr


def test_an_interpreter_that_reports_causes_no_warning_and_sends_nothing_beforehand(
    reports: Reports, tmp_path: Path
) -> None:
    # Another environment, which finds us by the search path.
    python = virtual_environment(tmp_path / "venv")
    done = BARE.run(*RUN, python, "-c", PROGRAM, PYTHONPATH=SITE_PACKAGES)
    assert done.stderr == ""
    assert flushes_by_process(reports) == {int(done.stdout): 1}


def test_no_interpreter_is_asked_that_is_ours_or_is_not_to_report(tmp_path: Path) -> None:
    asked = tmp_path / "python"
    asked.write_text(f'#!/bin/sh\necho asked >&2\nexec {sys.executable} "$@"\n')
    asked.chmod(0o755)
    # A script as pyenv's shims are, which is run once, as the program. That it cannot send is not the matter here.
    silent = "import logging; logging.disable()"
    assert BARE.run(*RUN, str(asked), "-c", silent).stderr == "asked\n"
    assert BARE.run(*RUN, BASE, "-c", "", DD_RUNTIME_METRICS_ENABLED="false").stderr == ""
    ours = str(Path(sys.executable).with_name("python3"))
    assert BARE.run(*RUN, ours, "-c", silent).stderr == ""


def test_an_interpreter_that_does_not_answer_delays_the_program_and_does_not_prevent_it(
    tmp_path: Path,
) -> None:
    site = next(
        (Path(virtual_environment(tmp_path / "venv")).parent.parent / "lib").glob("python*/site-packages")
    )
    (site / "asks.pth").write_text("import os, time; 'PROGRAM' in os.environ or time.sleep(600)\n")
    marker = ["env", "PROGRAM=1"]
    python = str(tmp_path / "venv" / "bin" / "python")
    assert BARE.run(*RUN, *marker, python, "-c", "print('runs')").stdout == "runs\n"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["env", "-i"], "env -i removes the launcher's folder from PYTHONPATH"),
        (["env", "-"], "env - removes"),
        (["/usr/bin/env", "--ignore-environment", "A=b"], "env --ignore-environment removes"),
        (["env", "-u", "PYTHONPATH"], "env -u PYTHONPATH removes"),
        (["env", "--unset=PYTHONPATH", "A=b"], "env --unset=PYTHONPATH removes"),
        (["env", "PYTHONPATH="], "env PYTHONPATH= removes"),
        (["env", "-i", *RUN], ""),
        (["env", "-C", "/", "-u", "HOME", "A=-i"], ""),
        (["env"], ""),
    ],
)
def test_a_command_that_loses_the_search_path_runs_after_a_warning(words: list[str], reason: str) -> None:
    found = unreachable([*words, sys.executable, "-c", "pass"])
    assert found.startswith(reason)
    assert bool(found) == bool(reason)
    assert not found or found.endswith(
        "; nothing will be reported unless `runtime-metrics run` comes after it"
    )


@pytest.mark.parametrize("name", ["python", "python3.13", "pypy3", "python.exe", "python3.EXE"])
def test_an_interpreter_is_known_by_its_name(name: str) -> None:
    assert _is_python(f"bin/{name}")
    assert not _is_python(f"bin/{name}-config")


def test_env_that_clears_the_environment_runs_the_program(reports: Reports) -> None:
    done = BARE.run(*RUN, "env", "-i", sys.executable, "-c", "print('runs')")
    assert done.stdout == "runs\n"
    assert done.stderr.startswith("runtime-metrics run: env -i removes ")
    assert done.stderr.count("\n") == 1
    assert flushes_by_process(reports) == {}


@pytest.mark.parametrize(
    ("words", "is_lost"),
    [
        (["sudo", "-u", "app", "python"], True),
        (["doas", "python"], True),
        (["sudo", "runtime-metrics", "run", "python"], False),
        (["sudo", "--preserve-env=PYTHONPATH", "python"], False),
    ],
)
def test_a_change_of_the_user_loses_the_search_path(words: list[str], is_lost: bool) -> None:
    assert bool(unreachable(words)) == is_lost


@pytest.mark.parametrize("content", [None, b"", b"not for this machine"], ids=["absent", "empty", "foreign"])
def test_a_package_built_for_another_abi_leaves_the_program_alone(
    content: bytes | None, reports: Reports, tmp_path: Path
) -> None:
    package = unpacked(tmp_path / "packages") / "runtime_metrics"
    (core,) = package.glob("_core.*.so")
    core.unlink()
    if content is not None:
        core.write_bytes(content)
    search = os.pathsep.join([str(package / "bootstrap"), str(package.parent)])
    command = [BASE, "-c", "import runtime_metrics.automatic"]
    assert "ImportError" in BARE.run(*command, status=1, PYTHONPATH=search).stderr
    done = BARE.run(BASE, "-c", "print('runs')", PYTHONPATH=search)
    assert (done.stdout, done.stderr) == ("runs\n", "")
    assert flushes_by_process(reports) == {}


def test_another_interpreter_finds_nothing_but_the_sitecustomize() -> None:
    with zipfile.ZipFile(wheel()) as archive:
        names = [name for name in archive.namelist() if "bootstrap" in name]
    assert names == ["runtime_metrics/bootstrap/sitecustomize.py"]


def test_an_error_of_ours_is_one_line_and_the_program_runs(tmp_path: Path) -> None:
    package = unpacked(tmp_path / "packages") / "runtime_metrics"
    with (package / "automatic.py").open("a") as automatic_py:
        automatic_py.write("\n1 / 0\n")
    done = BARE.run(BASE, "-c", "print('runs')", PYTHONPATH=str(package / "bootstrap"))
    assert done.stdout == "runs\n"
    assert done.stderr == "runtime-metrics: not started: ZeroDivisionError: division by zero\n"


@pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full"])
@pytest.mark.parametrize("command", [f"{shlex.join(RUN)} python", f"{shlex.join(RUN)} python -I", "python"])
def test_a_stderr_that_cannot_be_written_prevents_no_start(tmp_path: Path, command: str, stderr: str) -> None:
    program = tmp_path / "app.py"
    program.write_text(
        "try:\n    import runtime_metrics.auto\nexcept ImportError:\n    pass\nprint('it runs')\n"
    )
    done = subprocess.run(
        f"{command} {program} {stderr}",
        shell=True,
        env=os.environ
        | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "DD_RUNTIME_METRICS_ENABLED": "maybe",
            "OTEL_METRICS_EXPORTER": "none",
        },
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "it runs\n")
