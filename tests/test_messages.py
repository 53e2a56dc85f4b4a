"""What the operator is told: in the program's log, on standard error where that is impossible, and by whom."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from catalogue_names import NAMES, PREFIX
from launching import RUN
from peers import PEERS
from serving import SERVERS, need

if TYPE_CHECKING:
    from conftest import InstalledIn

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the programs read what they wrote to a descriptor"
)

PROGRAMS = Path(__file__).parent / "programs"
TRACED = {"DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false", "DD_REMOTE_CONFIGURATION_ENABLED": "false"}

BEGIN = """
import os, sys, time
from runtime_metrics import RuntimeMetrics
def wait(number=2):
    deadline = time.monotonic() + 30
    while not os.fstat(number).st_size and time.monotonic() < deadline:
        time.sleep(0.01)
"""


def packages(environment: Path) -> str:
    """The folder of an environment's packages."""
    (found,) = environment.glob("lib/python*/site-packages")
    return str(found)


class Ended:
    """A program that has run to its end, and the lines that it wrote."""

    def __init__(self, folder: Path, *command: str, **environment: str) -> None:
        """Runs it, with a file as its standard error: it can see there what was written."""
        errors = folder / "stderr"
        variables = {"DD_DOGSTATSD_URL": f"unix://{folder}/missing.socket"}
        with errors.open("wb") as stderr:
            done = subprocess.run(
                command,
                env=os.environ | variables | environment,
                stdout=subprocess.PIPE,
                stderr=stderr,
                check=False,
                timeout=60,
            )
        self.stdout = done.stdout.decode().splitlines()
        self.stderr = errors.read_text().splitlines()
        assert done.returncode == 0, self.stderr


def python(folder: Path, source: str, *options: str, **environment: str) -> Ended:
    """Runs a program that can wait for what is written to its standard error."""
    return Ended(folder, sys.executable, *options, "-c", BEGIN + textwrap.dedent(source), **environment)


def assert_fails(line: str, folder: Path) -> None:
    """The line is the warning that there is no receiver; it names us and the process."""
    assert re.match(rf"runtime-metrics\[\d+\]: sending to unix://{folder}/missing\.socket ", line), line


def test_without_logging_a_warning_is_one_line_on_stderr(tmp_path: Path) -> None:
    program = """
        RuntimeMetrics.enable(flush_interval=0.01)
        wait()
        RuntimeMetrics.flush()
        print("logging" in sys.modules)
        """
    ended = python(tmp_path, program, "-S", PYTHONPATH=packages(Path(sys.prefix)))
    assert ended.stdout == ["False"]
    (line,) = ended.stderr
    assert_fails(line, tmp_path)


@pytest.mark.parametrize("imports", ["", "import logging"])
@pytest.mark.parametrize("url", ["/missing", "127.0.0.1:9"])
def test_a_program_that_ends_before_its_first_interval_is_told_at_its_exit(
    tmp_path: Path, url: str, imports: str
) -> None:
    ended = python(tmp_path, f"{imports}\nRuntimeMetrics.enable()\nprint(os.getpid())", DD_DOGSTATSD_URL=url)
    (line,) = ended.stderr
    assert line.startswith(f"runtime-metrics[{ended.stdout[0]}]: sending to "), line


@pytest.mark.parametrize(
    "silence",
    [
        "logging.disable()",
        "logging.getLogger('runtime_metrics').setLevel('ERROR')",
        "logging.getLogger('runtime_metrics').disabled = True",
    ],
)
def test_a_program_that_wants_no_warnings_gets_none(tmp_path: Path, silence: str) -> None:
    program = f"import logging; {silence}\nRuntimeMetrics.enable()\nRuntimeMetrics.flush()"
    assert python(tmp_path, program).stderr == []
    assert python(tmp_path, f"import logging; {silence}\nRuntimeMetrics.enable()").stderr == []


def test_children_of_multiprocessing_leave_it_to_their_parent(tmp_path: Path) -> None:
    program = """
        import multiprocessing
        RuntimeMetrics.enable()
        children = [multiprocessing.get_context("fork").Process(target=int) for _ in range(3)]
        for child in children: child.start()
        for child in children: child.join(30)
        print(os.getpid())
        """
    ended = python(tmp_path, program)
    (line,) = ended.stderr
    assert line.startswith(f"runtime-metrics[{ended.stdout[0]}]: "), line


def test_a_message_names_the_process_that_it_is_of(tmp_path: Path) -> None:
    program = """
        import logging
        logging.basicConfig(stream=sys.stdout, format="%(message)s")
        RuntimeMetrics.enable(flush_interval=1000)
        if child := os.fork():
            os.waitpid(child, 0)
            print(child)
        else:
            RuntimeMetrics.flush()
            logging.shutdown()
            os._exit(0)
        """
    line, child = python(tmp_path, program).stdout
    assert_fails(line, tmp_path)
    assert line.startswith(f"runtime-metrics[{child}]: ")


@pytest.mark.parametrize("logs", [True, False])
def test_a_warning_is_not_lost_where_ddtrace_has_removed_threading(tmp_path: Path, logs: bool) -> None:
    need("gevent")
    need("ddtrace", among=PEERS)
    program = tmp_path / "program.py"
    log = "import logging; logging.basicConfig(stream=open(sys.argv[1], 'w'), format='%(message)s')"
    program.write_text(
        f"import sys\nprint('threading' in sys.modules)\n{log * logs}\n{BEGIN}\n"
        f"wait({'os.open(sys.argv[1], os.O_RDONLY)' if logs else 2})\n"
    )
    logged = tmp_path / "logged"
    launched = [*RUN, sys.executable, "-m", "ddtrace.commands.ddtrace_run", sys.executable]
    ended = Ended(
        tmp_path,
        *launched,
        str(program),
        str(logged),
        **TRACED,
        DD_TRACE_ENABLED="false",
        DD_RUNTIME_METRICS_INTERVAL="0.1",
        PYTHONPATH=os.pathsep.join([packages(SERVERS), packages(PEERS)]),
    )
    assert ended.stdout == ["False"]
    (line,) = logged.read_text().splitlines() if logs else ended.stderr
    assert_fails(line, tmp_path)


def test_a_warning_is_on_stderr_where_only_greenlets_may_take_the_locks_of_the_log(tmp_path: Path) -> None:
    need("gevent")
    program = """
        from gevent import monkey; monkey.patch_all()
        import logging
        logging.basicConfig(stream=sys.stdout)
        RuntimeMetrics.enable(flush_interval=0.01)
        wait()
        """
    ended = python(tmp_path, program, PYTHONPATH=packages(SERVERS))
    (line,) = ended.stderr
    assert_fails(line, tmp_path)


@pytest.mark.parametrize("recipe", ["current", "0.6", "0.5"])
@pytest.mark.parametrize("version", ["3.10", "3.12", "3.13"])
def test_loguru_finds_the_frame_that_logs(
    tmp_path: Path, recipe: str, version: str, installed_in: InstalledIn
) -> None:
    need("loguru")
    program = str(PROGRAMS / "intercepted.py")
    loguru = tmp_path / "packages"
    loguru.mkdir()
    (loguru / "loguru").symlink_to(Path(packages(SERVERS)) / "loguru")
    ended = Ended(tmp_path, installed_in(version), program, recipe, PYTHONPATH=str(loguru))
    (line,) = ended.stdout
    assert line.startswith("WARNING runtime-metrics["), line
    assert ended.stderr == []


@pytest.mark.parametrize("where", ["wait()", "RuntimeMetrics.flush()"])
def test_a_warning_is_on_stderr_where_a_handler_fails(tmp_path: Path, where: str) -> None:
    program = f"""
        import logging
        class Failing(logging.Handler):
            def emit(self, record):
                raise LookupError
        logging.getLogger().addHandler(Failing())
        RuntimeMetrics.enable(flush_interval={0.01 if "wait" in where else 1000})
        {where}
        """
    (line,) = python(tmp_path, program).stderr
    assert_fails(line, tmp_path)


# What descriptor 2 may be


OPENED = """
os.close(2)
data = os.open({path!r}, os.O_RDWR | os.O_CREAT | {flags})
assert data == 2
RuntimeMetrics.flush()
"""


@pytest.mark.parametrize("flags", ["0", "os.O_APPEND"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_no_file_of_the_program_is_written_to(tmp_path: Path, when: str, flags: str) -> None:
    path, enable = str(tmp_path / "data"), "RuntimeMetrics.enable()"
    opened = OPENED.format(path=path, flags=flags)
    python(tmp_path, f"{enable}{opened}" if when == "after" else f"{opened}{enable}")
    assert Path(path).read_bytes() == b""


def test_without_a_standard_error_no_file_is_taken_for_it(tmp_path: Path) -> None:
    source = BEGIN + textwrap.dedent(f"""
        assert sys.stderr is None
        data = os.open({str(tmp_path / "data")!r}, os.O_RDWR | os.O_CREAT)
        os.set_inheritable(data, True)
        RuntimeMetrics.enable()
        print(data)
        """)
    ended = Ended(tmp_path, "sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, source)
    assert ended.stdout == ["2"]
    assert (tmp_path / "data").read_bytes() == b""


def test_a_standard_error_that_is_redirected_to_a_log_gets_the_warning(tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = f"""
        RuntimeMetrics.enable()
        os.dup2(os.open({str(log)!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        """
    assert python(tmp_path, program).stderr == []
    assert_fails(log.read_text(), tmp_path)


@pytest.mark.parametrize("state", ["full", "closed"])
def test_a_standard_error_that_takes_nothing_neither_delays_nor_ends_the_program(
    tmp_path: Path, state: str
) -> None:
    reader, writer = os.pipe()
    if state == "closed":
        os.close(reader)
    else:
        os.set_blocking(writer, False)
        with suppress(BlockingIOError):
            while True:
                os.write(writer, bytes(4096))
        os.set_blocking(writer, True)
    source = f"""
        import signal
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        RuntimeMetrics.enable(dogstatsd_url="{tmp_path}/missing.socket")
        RuntimeMetrics.flush()
        """
    command = [sys.executable, "-S", "-c", BEGIN + textwrap.dedent(source)]
    environment = os.environ | {"PYTHONPATH": packages(Path(sys.prefix))}
    try:
        done = subprocess.run(command, env=environment, stderr=writer, check=False, timeout=30)
    finally:
        os.close(writer)
        if state == "full":
            os.close(reader)
    assert done.returncode == 0


# What else is logged


def test_a_mistyped_variable_is_one_warning_with_the_nearest_name(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent("""
        import multiprocessing, os
        from runtime_metrics import RuntimeMetrics
        RuntimeMetrics.enable()
        if __name__ == "__main__":
            RuntimeMetrics.enable()
            child = multiprocessing.get_context("fork").Process(target=RuntimeMetrics.enable)
            child.start()
            child.join(60)
            assert child.exitcode == 0
            print(os.getpid())
            os._exit(0 if RuntimeMetrics._enabled else 1)
        """)
    )
    mistyped = {"DD_RUNTIME_METRICS_INTERVALL": "1", "DD_RUNTIME_METRICS_ZZZ": "secret"}
    others = {"DD_RUNTIME_METRICS_GC_ENABLED": "true", "DD_RUNTIME_METRICS_RUNTIME_ID_ENABLED": "true"}
    ended = Ended(tmp_path, sys.executable, "-u", str(program), **mistyped, **others)
    (pid,) = ended.stdout
    lines = [line for line in ended.stderr if "sending to" not in line]
    assert lines == [
        f"runtime-metrics[{pid}]: DD_RUNTIME_METRICS_INTERVALL is no variable of runtime-metrics; "
        "did you mean DD_RUNTIME_METRICS_INTERVAL?",
        f"runtime-metrics[{pid}]: DD_RUNTIME_METRICS_ZZZ is no variable of runtime-metrics",
    ]


RECEIVED = """
import socket
receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver.bind(("127.0.0.1", 0))
url = "udp://127.0.0.1:%d" % receiver.getsockname()[1]
"""


def test_the_first_flush_logs_what_is_sent_where_how_often_and_as_whom(tmp_path: Path) -> None:
    program = f"""{RECEIVED}
import logging
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s", level="INFO")
RuntimeMetrics.enable(dogstatsd_url=url, service="shop", env="prod", version="7", tags=["password:x"])
for _ in range(2):
    assert RuntimeMetrics.flush()
print(url)
"""
    line, url = python(tmp_path, program).stdout
    assert re.fullmatch(
        rf"INFO runtime-metrics\[\d+\]: runtime metrics are sent every 10 s to {url} \(from dogstatsd_url\) "
        r"as service:shop,env:prod,version:7,runtime-id:[0-9a-f]{32}",
        line,
    ), line


def test_verbose_puts_the_start_and_each_change_of_state_on_stderr(tmp_path: Path) -> None:
    program = f"""{RECEIVED}
RuntimeMetrics.enable(dogstatsd_url=url, service="shop")
started = os.fstat(2).st_size > 0
for _ in range(2):
    assert RuntimeMetrics.flush()
receiver.close()
while RuntimeMetrics.flush():
    pass
RuntimeMetrics.flush()
print(started)
"""
    ended = python(tmp_path, program, DD_RUNTIME_METRICS_VERBOSE="true")
    assert ended.stdout == ["True"]
    texts = [re.sub(r"^runtime-metrics\[\d+\]: ", "", line) for line in ended.stderr]
    beginnings = [
        "runtime metrics will be sent every 10 s to udp://",
        "runtime metrics are sent every 10 s",
        "sending",
    ]
    assert [text.startswith(begin) for text, begin in zip(texts, beginnings, strict=True)] == [True] * 3, (
        texts
    )


def migrated(folder: Path, **environment: str) -> Ended:
    """A program that is launched by our command and by ddtrace's, with the variable that starts both."""
    need("ddtrace", among=PEERS)
    program = folder / "program.py"
    program.write_text(
        f"{BEGIN}{RECEIVED}"
        "import json\n"
        "RuntimeMetrics.enable(dogstatsd_url=url)\n"
        "RuntimeMetrics.flush()\n"
        "RuntimeMetrics.flush()\n"
        "print(json.dumps(sorted(RuntimeMetrics.status()['left_to_ddtrace'])))\n"
        "os._exit(0)\n"
    )
    launched = [*RUN, sys.executable, "-m", "ddtrace.commands.ddtrace_run", sys.executable, str(program)]
    variables = {"DD_RUNTIME_METRICS_ENABLED": "true", "PYTHONPATH": packages(PEERS), **TRACED}
    return Ended(folder, *launched, **variables, DD_TRACE_ENABLED="false", **environment)


def test_a_migration_that_leaves_everything_to_ddtrace_is_a_warning_with_the_remedy(tmp_path: Path) -> None:
    ended = migrated(tmp_path)
    (line,) = [line for line in ended.stderr if "runtime-metrics" in line]
    assert f"{len(NAMES)} of {len(NAMES)} names are left to it, and not sent here" in line
    assert "DD_RUNTIME_METRICS_FORCE=true" in line
    assert ended.stdout == ['["' + '", "'.join(sorted(PREFIX + name for name in NAMES)) + '"]']


@pytest.mark.parametrize(("force", "left"), [("false", len(NAMES)), ("true", 0)])
def test_who_has_decided_about_ddtraces_metrics_is_not_warned(tmp_path: Path, force: str, left: int) -> None:
    ended = migrated(tmp_path, DD_RUNTIME_METRICS_FORCE=force)
    assert [line for line in ended.stderr if "runtime-metrics" in line] == []
    assert ended.stdout[0].count(PREFIX) == left
