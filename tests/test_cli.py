"""The command `runtime-metrics`, as its users run it: child processes, real sockets, a real terminal."""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from catalogue_names import ALL_NAMES, BY_NAME, NAMES, PREFIX

from runtime_metrics import _core
from runtime_metrics.cli import COMMANDS, catalogue, watch
from runtime_metrics.watch.board import Board
from runtime_metrics.watch.dogstatsd import Line, MalformedLine, decode
from runtime_metrics.watch.format import readable, trend
from runtime_metrics.watch.receiver import Receiver

if TYPE_CHECKING:
    from collections.abc import Iterator

RUNTIME_NAMES = [f"{PREFIX}{name}" for name in NAMES]
COMMAND = [sys.executable, "-m", "runtime_metrics"]
ENVIRONMENT = os.environ | {"PYTHONWARNINGS": "error"}
LINE = b"runtime.python.mem.rss:73400320|d|#service:web,env:prod,runtime-id:aaaa1111"

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="signals, terminals, Unix sockets")
needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc")


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end."""
    return subprocess.run(
        [*COMMAND, *words], capture_output=True, text=True, check=False, env=ENVIRONMENT | environment
    )


@contextlib.contextmanager
def running(*words: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Starts the command, and kills it at the end of the block."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*COMMAND, *words], stdout=pipe, stderr=pipe, text=True, env=ENVIRONMENT | environment
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def address_of(process: subprocess.Popen[str]) -> str:
    """Waits until a running command listens, and returns its address."""
    assert process.stdout is not None
    return process.stdout.readline().removeprefix("listening on ").strip()


def send(address: str, *payloads: bytes) -> None:
    """Sends each payload as one datagram to `udp://127.0.0.1:PORT` or `unix:///PATH`."""
    scheme, where = address.split("://")
    host, _, port = where.rpartition(":")
    with socket.socket(socket.AF_UNIX if scheme == "unix" else socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(where if scheme == "unix" else (host, int(port)))
        for payload in payloads:
            sender.send(payload)


def marked(marker: str) -> list[int]:
    """The processes that inherited a marker through their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if marker.encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
    return found


ADOPT_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    """The command on a new pseudo-terminal, where Ctrl-C is a key."""

    def __init__(self, command: list[str], columns: int) -> None:
        """Starts the command."""
        import fcntl
        import pty
        import termios

        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-c", ADOPT_TERMINAL, *command],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env=ENVIRONMENT | {"TERM": "xterm-256color"},
        )
        os.close(slave)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self.shown = ""

    def press(self, key: bytes) -> None:
        """Presses a key."""
        os.write(self._master, key)

    def read(self) -> bool:
        """Waits for more output; False once no process has the terminal open."""
        try:
            more = os.read(self._master, 65536)
        except OSError:
            return False
        self.shown += self._decoder.decode(more)
        return bool(more)

    def read_until(self, text: str) -> None:
        """Waits until a text is shown."""
        while text not in self.shown:
            assert self.read(), f"never shown: {text!r} in {self.shown!r}"

    def read_to_the_end(self) -> None:
        """Waits until no process has the terminal open."""
        while self.read():
            pass

    @property
    def lines(self) -> list[str]:
        """What was shown, without colours and movements of the cursor."""
        return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.shown))

    def close(self) -> None:
        """Ends the command and closes the terminal."""
        self.process.kill()
        self.process.wait()
        os.close(self._master)


# The command as a whole


def test_without_a_command_it_prints_its_usage_and_fails() -> None:
    """The exit code of a wrong command line is 2."""
    result = run()
    assert result.returncode == 2
    assert result.stderr.startswith("usage: runtime-metrics")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_its_options(command: str) -> None:
    """Each command is imported for its own help."""
    result = run(command, "--help")
    assert result.returncode == 0
    assert result.stdout.startswith(f"usage: runtime-metrics {command} [-h]")


def test_the_version_is_that_of_the_package() -> None:
    """The output of `--version`."""
    result = run("--version")
    assert (result.returncode, result.stdout) == (0, f"runtime-metrics {_core.__version__}\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("watc", "unknown command watc; did you mean watch? (choose from run, check, "),
        ("variable --json", "unknown command variable; did you mean variables? "),
        ("python app.py", "unknown command python; did you mean `runtime-metrics run python`? "),
        ("nonsense", "unknown command nonsense (choose from "),
        ("watch --prot 8125", "unrecognized arguments: --prot 8125; did you mean --port?"),
        ("catalogue --jsno", "unrecognized arguments: --jsno; did you mean --json?"),
        ("check 8125", "unrecognized arguments: 8125\n"),
    ],
)
def test_a_mistake_names_what_was_probably_meant(words: str, message: str) -> None:
    """In the words of the command, of which the usage comes first."""
    result = run(*words.split(), PATH=str(Path(sys.executable).parent))
    assert (result.returncode, result.stdout) == (2, "")
    assert f"error: {message}" in result.stderr


@pytest.mark.parametrize("words", ["watch --port 65536", "watch --port x", "demo --seconds 0"])
def test_an_invalid_number_is_rejected(words: str) -> None:
    """Numbers are checked before anything starts."""
    result = run(*words.split())
    assert result.returncode == 2
    assert re.search(r"error: argument --(port|seconds): invalid \1 value", result.stderr)


def test_a_command_imports_only_what_it_uses() -> None:
    """The catalogue needs no receiver, and no rich."""
    code = "import sys; from runtime_metrics.cli import main; main(['catalogue']); print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(result.stdout.splitlines()[-1].split())
    assert "runtime_metrics.cli.catalogue" in modules
    assert modules.isdisjoint(
        {"runtime_metrics.watch.receiver", "runtime_metrics.cli.demo", "rich", "difflib"}
    )


@needs_posix
def test_a_closed_pipe_causes_no_traceback() -> None:
    """`runtime-metrics catalogue | true`."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as unread:
        result = subprocess.run([*COMMAND, "catalogue"], stdout=unread, stderr=subprocess.PIPE, check=False)
    assert (result.returncode, result.stderr) == (1, b"")


# catalogue


def test_the_catalogue_table_holds_every_name_once_in_order() -> None:
    """The plain form."""
    assert ALL_NAMES
    result = run("catalogue")
    assert result.returncode == 0
    assert re.findall(r"^(?:runtime|gunicorn)\.\S+", result.stdout, re.MULTILINE) == ALL_NAMES


def test_the_catalogue_as_json_holds_every_field_of_every_metric() -> None:
    """The form for programs."""
    rows = json.loads(run("catalogue", "--json").stdout)
    assert [row["name"] for row in rows] == ALL_NAMES
    assert len(set(ALL_NAMES)) == len(ALL_NAMES)
    public = {name for name in dir(_core.catalogue()[0]) if not name.startswith("_")}
    assert set(rows[0]) == public == set(catalogue.FIELDS)
    assert {row["kind"] for row in rows} == {"now", "change", "alarm", "aggregate", "observations", "family"}


def test_the_generated_page_names_its_command_and_describes_every_metric() -> None:
    """The form for docs/metrics.md."""
    page = run("catalogue", "--markdown").stdout
    assert page.splitlines()[0].startswith("<!-- Generated by `make generate`")
    assert re.findall(r"^### (\S+)$", page, re.MULTILINE) == ALL_NAMES
    assert [name for name, _ in re.findall(r"^\| \[`(\S+)`\]\(#(\S+)\) \|", page, re.MULTILINE)] == ALL_NAMES
    assert [m.description for m in _core.catalogue() if m.description not in page] == []
    assert page.endswith("\n")
    assert not page.endswith("\n\n")


def test_a_level_selects_rows_as_a_process_of_that_environment_does() -> None:
    """`--level`, with what the variables include and exclude."""

    def names(*options: str, **environment: str) -> list[str]:
        return [row["name"] for row in json.loads(run("catalogue", "--json", *options, **environment).stdout)]

    default = names("--level", "default")
    assert [name.removeprefix(PREFIX) for name in default if name.startswith(PREFIX)] == NAMES
    standard = names("--level", "standard")
    assert set(default) < set(standard)
    detailed = names("--level", "detailed")
    assert set(standard) < set(detailed)
    assert set(detailed).isdisjoint(BY_NAME)
    changed = names(
        "--level=default", DD_RUNTIME_METRICS_INCLUDE=BY_NAME[0], DD_RUNTIME_METRICS_EXCLUDE="gc.*"
    )
    assert set(changed) ^ set(default) == {BY_NAME[0], *(name for name in default if f"{PREFIX}gc." in name)}
    wrong = run("catalogue", "--level", "all")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert 'error: level="all": expected default, standard or detailed' in wrong.stderr


def test_the_bill_counts_series_and_names() -> None:
    """Each process has its own series unless it has no runtime-id; a distribution counts five times."""
    names = len(NAMES)
    bill = run("catalogue", "--level=default", "--workers", "3", "--hosts", "200").stdout
    numbers = {
        label: int(number.replace(",", ""))
        for label, number in re.findall(r"^  (.+?) {2,}([\d,]+)", bill, re.M)
    }
    assert numbers == {
        "names": names,
        "series of a process": names,
        "series in all": names * 600,
        "by series, as distributions": names * 3000,
        "by series, as gauges": names * 600,
        "as distributions, without runtime-id": names * 1000,
        "by name": names,
    }
    assert bill.startswith("3 processes on each of 200 hosts send at most\n")
    assert run("catalogue", "--hosts=1").stdout.startswith("1 process on each of 1 host sends at most\n")


def test_the_metadata_are_those_of_an_integration() -> None:
    """The columns, types and units that Datadog's integrations may use."""
    rows = list(csv.DictReader(io.StringIO(run("catalogue", "--csv").stdout)))
    assert [row["metric_name"] for row in rows] == [name for name in ALL_NAMES if name.startswith(PREFIX)]
    assert set(rows[0]) == set(catalogue.METADATA)
    better = {row["metric_name"]: row["orientation"] for row in rows}
    assert better[f"{PREFIX}mem.rss"] == "0"
    assert better[f"{PREFIX}mem.oom_kills"] == "-1"
    assert better[f"{PREFIX}mem.time_to_limit"] == "1"
    assert {row["unit_name"] for row in rows} <= {*catalogue.KNOWN_UNITS, *catalogue.UNITS.values(), "item"}
    units = {row["metric_name"]: row["unit_name"] for row in rows}
    assert units[f"{PREFIX}mem.rss"] == "byte"
    assert units[f"{PREFIX}gc.collections.gen0"] == "garbage collection"
    assert all(row["description"] for row in rows)


# incidents


def test_the_incidents_are_listed_in_every_form() -> None:
    """Each with its metrics, in the order in which to read them."""
    table, page = run("incidents").stdout, run("incidents", "--markdown").stdout
    incidents = json.loads(run("incidents", "--json").stdout)
    assert len(incidents) > 5
    for incident in incidents:
        names = [name for name, _ in incident["clues"]]
        listed = table[table.index(incident["symptom"]) :].split("\n\n")[0]
        assert re.findall(r"^  \d+\. (\S+)$", listed, re.MULTILINE) == names
        section = page.split(f"\n## {incident['symptom']}\n")[1].split("\n## ")[0]
        assert re.findall(r"^\d+\. \[`(\S+)`\]", section, re.MULTILINE) == names
    first = incidents[0]["clues"]
    metric = next(metric for metric in _core.catalogue() if metric.name == first[0][0])
    assert incidents[0]["symptom"] in metric.explains
    assert first[1][0] in metric.read_next


# variables


def test_the_variables_are_listed_in_every_form() -> None:
    """For people, for programs, and for docs/configuration.md."""
    variables = _core.variables()
    assert len(variables) > 20
    listed = run("variables").stdout
    assert re.findall(r"^[A-Z_]\w+", listed, re.MULTILINE) == [variable.name for variable in variables]
    assert "\nDD_RUNTIME_METRICS_INTERVAL  (default: 10)\n    How often metrics are sent.\n" in listed
    rows = json.loads(run("variables", "--json").stdout)
    assert rows == [
        {"name": it.name, "default": it.default, "accepts": it.accepts, "effect": it.effect}
        for it in variables
    ]
    page = Path(__file__).parent.parent / "docs" / "configuration.md"
    assert run("variables", "--markdown").stdout == page.read_text()


# The decoder


@pytest.mark.parametrize(
    ("line", "decoded"),
    [
        (b"a:1|d", [Line("a", (1.0,), "d", ())]),
        (b"a.b_c.D9:-1.50|g", [Line("a.b_c.D9", (-1.5,), "g", ())]),
        (b"a:1|ms|#x:y", [Line("a", (1.0,), "ms", ("x:y",))]),
        (b"a:1:2:3.5|d|#t", [Line("a", (1.0, 2.0, 3.5), "d", ("t",))]),
        (b"a:1|c|@0.25|#x:y,z", [Line("a", (1.0,), "c", ("x:y", "z"), 0.25)]),
        (b"a:1|c|#x:y,z|@1.0", [Line("a", (1.0,), "c", ("x:y", "z"))]),
        (b"a:1|g|T1656581400", [Line("a", (1.0,), "g", ())]),
        (b"a:1|h|#t|c:in-4026531835|e:it-false,cn-web,pu-1f|card:low", [Line("a", (1.0,), "h", ("t",))]),
        (b"a:user:7|s", [Line("a", ("user", "7"), "s", ())]),
        ("a:1|d|#ort:Köln,path:/a b".encode(), [Line("a", (1.0,), "d", ("ort:Köln", "path:/a b"))]),
        (b"_e{5,4}:title|text|#t", []),
        (b"_sc|a.check|0", [Line("a.check", (0.0,), "_sc", ())]),
        (b"_sc|a|2|d:1656581400|h:web-1|#x:y|c:in-7|m:gone", [Line("a", (2.0,), "_sc", ("x:y",))]),
    ],
)
def test_a_line_within_the_grammar_is_decoded(line: bytes, decoded: list[Line]) -> None:
    """Every part of the grammar."""
    assert list(decode(line)) == decoded


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "not a metric name"),
        (b"1a:1|d", "not a metric name"),
        (b"a-b:1|d", "not a metric name"),
        (b":1|d", "not a metric name"),
        ("é:1|d".encode(), "not a metric name"),
        (b"a:1", "not a metric type"),
        (b"a:1|", "not a metric type"),
        (b"a:1|x", "not a metric type"),
        (b"a:1|D", "not a metric type"),
        (b"a|d", "no value"),
        (b"a:|d", "not a finite decimal number"),
        (b"a:|s", "not a finite decimal number"),
        (b"a:1:|d", "not a finite decimal number"),
        (b"a:+1|g", "not a finite decimal number"),
        (b"a:1e3|d", "not a finite decimal number"),
        (b"a:.5|d", "not a finite decimal number"),
        (b"a:5.|d", "not a finite decimal number"),
        (b"a:nan|d", "not a finite decimal number"),
        (b"a:inf|d", "not a finite decimal number"),
        (b"a:1_000|d", "not a finite decimal number"),
        ("a:٣|d".encode(), "not a finite decimal number"),
        (b"a:" + b"9" * 400 + b"|d", "not a finite decimal number"),
        (b"a:1|d|", "an unknown field"),
        (b"a:1|d|m:x", "an unknown field"),
        (b"a:1|d|#", "not a valid field #"),
        (b"a:1|d|#a,,b", "not a valid field #"),
        (b"a:1|d|#a,", "not a valid field #"),
        (b"a:1|d|#a|#b", "two fields #"),
        (b"a:1|d|@0", "not a valid field @"),
        (b"a:1|d|@0.0", "not a valid field @"),
        (b"a:1|d|@1.5", "not a valid field @"),
        (b"a:1|d|@-1", "not a valid field @"),
        (b"a:1|d|T-5", "not a valid field T"),
        (b"a:1|d|c:", "not a valid field c:"),
        (b"a:1|d|c:a_b", "not a valid field c:"),
        (b"a:1|d|e:UPPER", "not a valid field e:"),
        (b"a:1|d|card:all", "not a valid field card:"),
        (b"a:1|d|#\xff", "not UTF-8"),
        (b"a:1|d|#t:\x1b[2J", "a character that cannot be printed"),
        (b"a:1|d|#t:x\r", "a character that cannot be printed"),
        ("a:1|d|#t:\u202eevil".encode(), "a character that cannot be printed"),
        (b"_sc", "not the name of a service check"),
        (b"_sc|a", "not the name of a service check"),
        (b"_sc|a b|0", "not the name of a service check"),
        (b"_sc|a|4", "not the state of a service check"),
        (b"_sc|a|0|@1", "an unknown field"),
        (b"_sc|a|0|h:", "not a valid field h:"),
        (b"a:1|d\x00", "a character that cannot be printed"),
    ],
)
def test_a_line_outside_the_grammar_is_malformed(line: bytes, reason: str) -> None:
    """The error has the reason, and shows the line without control characters."""
    with pytest.raises(MalformedLine) as caught:
        list(decode(line))
    assert caught.value.reason == reason
    assert str(caught.value).isprintable()


def test_a_malformed_line_does_not_affect_its_neighbours() -> None:
    """A list receives what could not be decoded."""
    malformed: list[MalformedLine] = []
    lines = list(decode(b"a:1|d\nbroken\n\nb:2|d\n", malformed))
    assert [line.name for line in lines] == ["a", "b"]
    assert [error.line for error in malformed] == [b"broken", b""]


def test_any_replaced_byte_gives_a_line_or_a_malformed_line() -> None:
    """Each byte of a line is replaced by every byte: no other error is ever raised."""
    line = b"ab:12|d|@0.5|T9|#k:v,w|c:in-7|e:it-x|card:low"
    replaced = [line[:at] + bytes([byte]) + line[at + 1 :] for at in range(len(line)) for byte in range(256)]
    malformed: list[MalformedLine] = []
    for payload in replaced:
        list(decode(payload, malformed))
    assert len(replaced) == len(line) * 256
    assert 0 < len(malformed) < len(replaced)


# The board


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (73_400_320, "byte", "73.4 MB"),
        (512, "byte", "512 B"),
        (2_000_000_000, "byte", "2 GB"),
        (0.0123, "second", "12.3 ms"),
        (0, "second", "0 µs"),
        (86_400, "second", "86,400 s"),
        (1_234, "nanosecond", "1.23 µs"),
        (98.24, "percent", "98.2 %"),
        (1, "thread", "1 thread"),
        (1_204, "object", "1,204 objects"),
        (3, "switch", "3 switches"),
        (12.34, "millisecond", "12.3 ms"),
        (2, "service check", "CRITICAL"),
        (-2.5, "", "-2.50"),
        (1e300, "", "1e+300"),
        (1e300, "second", "1e+300 s"),
        (1e-300, "second", "0.00 µs"),
    ],
)
def test_a_number_is_shown_for_people(value: float, unit: str, text: str) -> None:
    """Three significant digits, and the unit that keeps them short."""
    assert readable(value, unit) == text


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([], ""),
        ([5.0], "▁"),
        ([5.0, 5.0], "▁▁"),
        ([0, 1, 2, 3, 4, 5, 6, 7], "▁▂▃▄▅▆▇█"),
        ([-1.0, 0.0, 1.0], "▁▅█"),
        ([-1.7e308, 1.7e308], "▁▁"),
        ([0.0, 5e-324], "▁█"),
    ],
)
def test_a_trend_runs_from_the_lowest_to_the_highest_block(values: list[float], line: str) -> None:
    """Even where the span overflows."""
    assert trend(values) == line


def test_two_processes_are_kept_apart() -> None:
    """Each runtime-id has its rows; shared tags are shown above."""
    board = Board({"b": "byte", "a": "thread"})
    for name, value, process in (("a", 1.0, "one"), ("b", 10.0, "one"), ("a", 2.0, "two"), ("a", 3.0, "one")):
        board.add(Line(name, (value,), "d", ("service:web", f"runtime-id:{process}")))
    assert board.shared_tags == ("service:web",)
    assert [process.tags for process in board.processes] == [("runtime-id:one",), ("runtime-id:two",)]
    shown = [[(row.label, row.series.latest) for row in process.rows] for process in board.processes]
    assert shown == [[("b", "10 B"), ("a", "3 threads")], [("a", "2 threads")]]


def test_series_of_one_name_are_distinguished_by_their_tags() -> None:
    """A label shows the tags its process does not share."""
    board = Board({})
    for own in ("state:idle", "state:busy"):
        board.add(Line("a", (1.0,), "d", ("service:web", "runtime-id:one", own)))
    (process,) = board.processes
    assert [row.label for row in process.rows] == ["a{state:idle}", "a{state:busy}"]


def test_a_line_with_several_values_shows_their_median_minimum_and_maximum() -> None:
    """Each value is a sample."""
    board = Board({"a": "millisecond"})
    for values in ((3.0, 40.0, 1.0), (5.0, 7.0)):
        series = board.add(Line("a", values, "ms", ()))
    assert series is not None
    assert (series.latest, series.extremes, [*series.recent]) == ("6 ms", ("1 ms", "40 ms"), [3.0, 6.0])
    assert board.sample_count == 5


def test_a_sampled_counter_is_scaled_by_its_rate() -> None:
    """As the Agent does."""
    board = Board({})
    series = [board.add(Line("a", (2.0, 3.0), "c", (), rate)) for rate in (1.0, 0.5)][-1]
    assert series is not None
    assert [*series.recent] == [5.0, 10.0]


def test_a_member_of_a_family_has_its_position_and_unit() -> None:
    """The catalogue has one row for all of them."""
    board = Board({"a.status": "request", "b": "byte"})
    for name in ("z.y", "b", "z.x", "a.status.500", "a.status.200"):
        board.add(Line(name, (2.0,), "c", ()))
    (process,) = board.processes
    shown = [(row.label, row.series.latest) for row in process.rows]
    ours = [("a.status.200", "2 requests"), ("a.status.500", "2 requests"), ("b", "2 B")]
    assert shown == [*ours, ("z.y", "2"), ("z.x", "2")]


def test_a_set_counts_as_a_sample_and_is_not_shown() -> None:
    """Its value is no number."""
    board = Board({})
    assert board.add(Line("a", ("text",), "s", ())) is None
    assert (board.sample_count, board.processes, board.shared_tags) == (1, (), ())


# The receiver


def test_the_receiver_takes_a_free_port_and_counts_malformed_lines() -> None:
    """Three datagrams, one of them with a broken line, one of them empty."""
    with Receiver.udp() as receiver:
        send(receiver.address, b"a:1|d\nb:2|d\n", b"c:3|d\nbroken", b"")
        received = receiver.lines(timeout=60)
        assert [next(received).name for _ in range(3)] == ["a", "b", "c"]
        assert list(receiver.pending()) == []
        assert receiver.malformed_count == 2
        assert [error.line for error in receiver.malformed] == [b"broken", b""]


def test_the_receiver_waits_no_longer_than_its_timeout() -> None:
    """Nothing arrives, and the iteration ends."""
    with Receiver.udp() as receiver:
        assert list(receiver.lines(timeout=0.01)) == []


@needs_posix
def test_the_receiver_on_a_unix_socket_removes_its_file(tmp_path: Path) -> None:
    """The file is there while it listens, and gone afterwards."""
    path = tmp_path / "dsd.socket"
    with Receiver.unix(str(path)) as receiver:
        send(receiver.address, LINE)
        assert next(receiver.lines(timeout=60)).values == (73_400_320,)
        assert path.is_socket()
    assert not path.exists()


# watch


def test_watch_shows_what_arrives_and_ends_after_its_time() -> None:
    """Samples, a malformed line, a summary, an exit code of 0."""
    with running("watch", "--port", "0", "--seconds", "3") as process:
        send(address_of(process), LINE + b"\n", b"other.metric:5|g\n", b"broken\n")
        shown, complaints = process.communicate()
    assert process.returncode == 0
    assert re.search(r"s  runtime\.python\.mem\.rss +73\.4 MB", shown)
    assert re.search(r"^other\.metric +5 +5 +5  ▁$", shown, re.MULTILINE)
    assert shown.endswith("\nsamples: 2, malformed lines: 1\n")
    assert complaints == "malformed line: not a metric type: b'broken'\n"


def test_watch_shows_only_what_its_option_names() -> None:
    """Workers by state, durations packed in a line, counters, and the service check, which belongs to no process."""
    master, worker = "#service:web,runtime-id:aaaa", "#service:web,runtime-id:bbbb"
    datagrams = (
        f"runtime.python.mem.rss:1|d|{master}\ngunicorn.workers:2|g|{master},app:shop,state:idle\n"
        f"gunicorn.workers:1|g|{master},app:shop,state:working\n_sc|gunicorn.is_running|0|#app:shop,service:web\n",
        f"gunicorn.requests:3|c|{worker}\ngunicorn.request.duration:12.5:400.25:3|ms|@0.5|{worker}\n",
        f"gunicorn.workers:3|g|{master},app:shop,state:idle\n_sc|gunicorn.is_running|2|#app:shop,service:web\n",
    )
    with running("watch", "--port", "0", "--seconds", "3", "--only", "gunicorn.*") as process:
        send(address_of(process), *map(str.encode, datagrams))
        shown, complaints = process.communicate()
    assert (process.returncode, complaints) == (0, "")
    lines = [re.sub(r"^ +[0-9.]+ s +", "", line).split() for line in shown.splitlines()]
    assert [line for line in lines if line and line[0].startswith("gunicorn.")] == [
        ["gunicorn.workers", "2", "workers"],
        ["gunicorn.workers{state:working}", "1", "worker"],
        ["gunicorn.is_running", "OK"],
        ["gunicorn.requests", "3", "requests", "bbbb"],
        ["gunicorn.request.duration", "12.5", "ms", "bbbb"],
        ["gunicorn.workers{state:idle}", "3", "workers", "aaaa"],
        ["gunicorn.is_running", "CRITICAL"],
        # The summary: last, smallest, largest, trend.
        ["gunicorn.workers{state:idle}", "3", "workers", "2", "workers", "3", "workers", "▁█"],
        ["gunicorn.workers{state:working}", "1", "worker", "1", "worker", "1", "worker", "▁"],
        ["gunicorn.is_running", "CRITICAL", "OK", "CRITICAL", "▁█"],
        ["gunicorn.requests", "3", "requests", "3", "requests", "3", "requests", "▁"],
        ["gunicorn.request.duration", "12.5", "ms", "3", "ms", "400", "ms", "▁"],
    ]


@pytest.mark.parametrize(
    ("only", "shown"),
    [
        ("gc.*", ["runtime.python.gc.pause.max", "gc.of.another"]),
        ("runtime.python.gc.*", ["runtime.python.gc.pause.max"]),
        ("gc.pause.max, mem.rss", ["runtime.python.gc.pause.max", "runtime.python.mem.rss"]),
        ("gunicorn.request.status", ["gunicorn.request.status.500"]),
        ("other", []),
        ("other.metric", ["other.metric"]),
    ],
)
def test_watch_names_metrics_as_the_variable_does(only: str, shown: list[str]) -> None:
    """A name or a group, with or without the prefix of our names."""
    received = [
        "runtime.python.gc.pause.max",
        "runtime.python.mem.rss",
        "gunicorn.request.status.500",
        "gc.of.another",
        "other.metric",
    ]
    board = Board({metric.name: metric.unit for metric in _core.catalogue()}, watch.names(only))
    for name in received:
        board.add(Line(name, (1.0,), "d", ()))
    assert board.names == set(shown)


@pytest.mark.parametrize("only", ["*.rss", "gc*", "mem.?ss", "a b"])
def test_watch_refuses_a_pattern_that_would_show_nothing(only: str) -> None:
    """The variable warns of it."""
    result = run("watch", "--only", f"gc.*,{only}")
    assert result.returncode == 2
    assert result.stderr.endswith(f"argument --only: {only}: expected a name or a group such as gc.*\n")


@needs_posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_watch_ends_cleanly_on_a_signal(number: signal.Signals, tmp_path: Path) -> None:
    """On a Unix socket, whose file is removed."""
    path = tmp_path / "dsd.socket"
    with running("watch", "--unix", str(path)) as process:
        assert address_of(process) == f"unix://{path}"
        send(f"unix://{path}", LINE)
        assert process.stdout is not None
        assert "service:web env:prod runtime-id:aaaa1111" in process.stdout.readline()
        process.send_signal(number)
        shown, complaints = process.communicate()
    assert (process.returncode, complaints) == (0, "")
    assert shown.endswith("\nsamples: 1, malformed lines: 0\n")
    assert not path.exists()


def test_watch_reports_a_taken_port_in_one_line() -> None:
    """No traceback, exit code 1."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        result = run("watch", "--port", str(port))
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(rf"runtime-metrics watch: cannot listen on 127\.0\.0\.1:{port}: .+\n", result.stderr)


@needs_posix
def test_watch_does_not_replace_an_existing_file(tmp_path: Path) -> None:
    """There is another file at the path of the socket."""
    path = tmp_path / "precious"
    path.write_text("kept")
    result = run("watch", "--unix", str(path))
    assert result.returncode == 1
    assert re.fullmatch(rf"runtime-metrics watch: cannot listen on unix://{path}: .+\n", result.stderr)
    assert path.read_text() == "kept"


@needs_posix
def test_a_terminal_without_rich_gets_plain_lines() -> None:
    """The optional dependency is optional."""
    program = "import sys; sys.modules['rich'] = None; from runtime_metrics.cli import main; main()"
    command = [sys.executable, "-c", program, "watch", "--port", "0"]
    with contextlib.closing(Terminal(command, columns=100)) as terminal:
        terminal.read_until("listening on udp://127.0.0.1:")
        terminal.press(b"\x03")
        terminal.read_to_the_end()
        assert "samples: 0, malformed lines: 0" in terminal.shown
        assert terminal.process.wait() == 0


# demo


@needs_proc
def test_demo_shows_every_metric_of_the_default_level_and_leaves_nothing_behind() -> None:
    """Regardless of settings that the shell exports."""
    marker = f"test-{uuid.uuid4()}"
    exported = {"DD_SERVICE": "other", "DD_TAGS": "team:core", "DD_AGENT_HOST": "192.0.2.1"}
    result = run("demo", "--seconds", "4", RUN_MARKER=marker, **exported)
    assert (result.returncode, result.stderr) == (0, "")
    assert "service:demo env:local version:1.0" in result.stdout
    assert "team:core" not in result.stdout
    summary = result.stdout[result.stdout.index("NAME ") :]
    assert re.findall(r"^runtime\.\S+", summary, re.MULTILINE) == RUNTIME_NAMES
    assert summary.endswith(
        f"\n{len(RUNTIME_NAMES)} of {len(RUNTIME_NAMES)} metrics seen over a real UDP socket\n"
    )
    assert marked(marker) == []


@needs_proc
@pytest.mark.parametrize(("columns", "headings"), [(80, "name last trend"), (140, "name last min max trend")])
def test_demo_on_a_terminal_draws_a_table_and_ends_at_ctrl_c(columns: int, headings: str) -> None:
    """One table that fits, no traceback, no child left."""
    marker = f"test-{uuid.uuid4()}"
    command = ["/usr/bin/env", f"RUN_MARKER={marker}", *COMMAND, "demo", "--seconds", "600"]
    with contextlib.closing(Terminal(command, columns)) as terminal:
        terminal.read_until("runtime.python.thread_count")
        children = marked(marker)
        terminal.press(b"\x03")
        terminal.read_to_the_end()
        status = terminal.process.wait()
    assert len(children) == 2
    assert "Traceback" not in terminal.shown
    assert (
        f"{len(RUNTIME_NAMES)} of {len(RUNTIME_NAMES)} metrics seen over a real UDP socket" in terminal.shown
    )
    assert "listening on" not in terminal.shown
    assert status == 0
    assert max(len(line) for line in terminal.lines) <= columns
    assert {" ".join(line.split()) for line in terminal.lines if line.startswith("name ")} == {headings}
    assert marked(marker) == []


@needs_proc
def test_demo_fails_when_its_workload_does() -> None:
    """The child is killed in the middle of its work."""
    marker = f"test-{uuid.uuid4()}"
    with running("demo", "--seconds", "600", RUN_MARKER=marker) as process:
        address_of(process)
        assert process.stdout is not None
        process.stdout.readline()
        (child,) = set(marked(marker)) - {process.pid}
        os.kill(child, signal.SIGKILL)
        _, complaints = process.communicate()
    assert process.returncode == 1
    assert complaints.endswith("runtime-metrics demo: the workload ended with status -9 before its time\n")


@needs_proc
def test_demo_kills_a_workload_that_does_not_end() -> None:
    """A stopped process does not see the end of its input."""
    marker = f"test-{uuid.uuid4()}"
    with running("demo", "--seconds", "600", RUN_MARKER=marker) as process:
        address_of(process)
        assert process.stdout is not None
        process.stdout.readline()
        (child,) = set(marked(marker)) - {process.pid}
        os.kill(child, signal.SIGSTOP)
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate()
    assert process.returncode == 1
    assert complaints.endswith("runtime-metrics demo: the workload did not end when asked to\n")
    assert marked(marker) == []


@needs_proc
def test_the_workload_ends_when_the_demo_is_killed() -> None:
    """Its standard input ends with its parent, whatever ended the parent."""
    marker = f"test-{uuid.uuid4()}"
    with running("demo", "--seconds", "600", RUN_MARKER=marker) as process:
        address_of(process)
        assert process.stdout is not None
        process.stdout.readline()
        (child,) = set(marked(marker)) - {process.pid}
        watched = os.pidfd_open(child)
        process.kill()
        ended, _, _ = select.select([watched], [], [], 60)
        os.close(watched)
    assert ended == [watched]
