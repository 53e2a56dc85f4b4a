"""The example of Gunicorn: what its command shows, how it ends, and the commands and files of docs/gunicorn.md."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from serving import OUR_ERRORS, SERVERS, TIMEOUT, Datagrams, ask, need

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: sessions, Unix datagram sockets"),
]

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "gunicorn"
DOCUMENT = (ROOT / "docs" / "gunicorn.md").read_text()
SHOWN = re.search(r"^ +\$ python examples/gunicorn/run\.py(.*)\n\n((?:    .+\n)+)", DOCUMENT, re.MULTILINE)


def example(*options: str, **environment: str) -> subprocess.Popen[str]:
    """Starts the example."""
    need("gunicorn")
    return subprocess.Popen(
        [str(SERVERS / "bin" / "python"), "-W", "error", str(EXAMPLE / "run.py"), *options],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def rows(summary: str) -> dict[str, list[str]]:
    """The last, smallest and largest value of each name, for the last process where there are several."""
    lines = [re.split(r"  +", line.strip()) for line in summary.splitlines()]
    return {name: values[:3] for name, *values in lines if len(values) == 4}


@pytest.mark.measures
def test_the_example_shows_workers_requests_and_the_end() -> None:
    assert SHOWN is not None
    with example(*shlex.split(SHOWN[1].replace("14", "8"))) as program:
        shown, complaints = program.communicate(timeout=TIMEOUT)
    assert (program.returncode, complaints) == (0, "")
    assert shown.endswith("malformed lines: 0\n")
    found = rows(shown[shown.index("\nNAME ") :])
    assert found["gunicorn.workers{state:working}"] == ["0 workers", "0 workers", "3 workers"]
    # One client never pauses: a worker serves it at almost every flush, in the quiet phases as well.
    assert found["gunicorn.workers{state:idle}"][:2] == ["0 workers", "0 workers"]
    assert found["gunicorn.workers{state:idle}"][2] in {"2 workers", "3 workers"}
    assert found["gunicorn.is_running"] == ["CRITICAL", "OK", "CRITICAL"]
    # More than one if there are clients before there are workers.
    assert re.fullmatch(r"[1-4] connections?", found["gunicorn.backlog"][2])
    assert re.fullmatch(r"[\d.]+ (ms|s)", found["gunicorn.request.duration"][2])
    assert rows(SHOWN[2]).keys() - {"NAME"} == found.keys() - {"NAME"}, (
        "docs/gunicorn.md shows other rows than its command does: run it, and replace the output there"
    )


def test_the_example_ends_with_everything_it_has_started_at_ctrl_c() -> None:
    with example() as program:
        assert program.stdout is not None
        while "gunicorn.requests" not in (line := program.stdout.readline()):
            assert line
        family = psutil.Process(program.pid).children(recursive=True)
        program.send_signal(signal.SIGINT)
        shown, complaints = program.communicate(timeout=TIMEOUT)
    assert (program.returncode, complaints) == (0, "")
    assert rows(shown)["gunicorn.is_running"][0] == "CRITICAL"
    # The screen, the master and three workers.
    assert len(family) == 5
    assert [process for process in family if process.is_running()] == []


def test_the_example_shows_an_error_of_gunicorn() -> None:
    with example(GUNICORN_CMD_ARGS="--worker-class none") as program:
        _, complaints = program.communicate(timeout=TIMEOUT)
    assert program.returncode == 1
    assert "none" in complaints


def reported(command: str, folder: Path, *, awaited: str = "Booting worker", times: int = 1) -> list[str]:
    """Runs a command of the document and sends one request; returns the lines that its processes send."""
    shutil.copy(EXAMPLE / "app.py", folder)
    variables, words = {}, shlex.split(command)
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        variables[name] = value
    payloads = Datagrams(folder / "agent", lambda payload, _: payload)
    listening = folder / "http"
    settings = {"DD_DOGSTATSD_URL": payloads.url, "DD_RUNTIME_METRICS_INTERVAL": "3600"}
    with subprocess.Popen(
        [str(SERVERS / "bin" / words[0]), *words[1:], "--bind", f"unix:{listening}", "--no-control-socket"],
        cwd=folder,
        env=os.environ | settings | variables,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stderr is not None
            output = ""
            while output.count(awaited) < times:
                output += (line := server.stderr.readline())
                assert line, output
            assert ask(listening) == (200, "ok\n")
        finally:
            server.terminate()
            output += server.communicate(timeout=TIMEOUT)[1]
            payloads.stop()
    assert server.returncode == 0, output
    assert OUR_ERRORS.findall(output) == [], output
    assert output.count(awaited) == times, output
    return "".join(payloads).splitlines()


COMMANDS = re.findall(r"^ +\$ (.*\bgunicorn .*app:app)$", DOCUMENT, re.MULTILINE)
FILES = re.findall(r"^```python gunicorn\.conf\.py\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_document_counts_a_request(command: str, tmp_path: Path) -> None:
    need("gunicorn")
    lines = reported(command, tmp_path)
    assert [line for line in lines if line.startswith("gunicorn.requests:1|c|")] != []
    assert [line for line in lines if line.startswith("_sc|gunicorn.is_running|2|#app:app:app,")] != []


@pytest.mark.parametrize("number", range(len(FILES)))
def test_every_configuration_file_of_the_document_counts_a_request_and_calls_its_hooks(
    number: int, tmp_path: Path
) -> None:
    need("gunicorn")
    (tmp_path / "gunicorn.conf.py").write_text(FILES[number])
    lines = reported("gunicorn app:app", tmp_path, awaited=" is there", times=2)
    assert [line for line in lines if line.startswith("gunicorn.requests:1|c|")] != []


def test_the_document_has_both_ways_to_start() -> None:
    assert (len(COMMANDS), len(FILES)) == (2, 2)
