"""The tutorial of examples/notes: its answers, its processes, the commands of its README, and its files."""

from __future__ import annotations

import json
import os
import pwd
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import psutil
import pytest
from serving import OUR_ERRORS, SERVERS, TIMEOUT, Reports, need
from test_deploy import Mistake, compose, dockerfile, kubernetes

from runtime_metrics import _core

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.servers

NOTES = Path(__file__).parent.parent / "examples" / "notes"
README = (NOTES / "README.md").read_text()
DATE = re.compile(r"\b\d\d/\d\d/\d{4}\b")


@pytest.fixture
def tutorial(tmp_path: Path) -> Path:
    """The folder in which a newcomer works."""
    if sys.platform != "linux":
        pytest.skip("needs Linux, where a Unix socket identifies the sender")
    need("flask", "psycopg", "requests", "runtime-metrics")
    return copied(tmp_path)


def copied(folder: Path) -> Path:
    """A copy of the example in this folder."""
    return Path(
        shutil.copytree(NOTES, folder / "notes", ignore=shutil.ignore_patterns(".venv", "__pycache__"))
    )


@contextmanager
def running(command: str, folder: Path, **environment: str) -> Iterator[Program]:
    """Runs a command of the tutorial until its end, or stops it as Ctrl-C does."""
    program = Program(command, folder, environment)
    try:
        yield program
        program.stop()
    finally:
        program.kill()


class Program:
    """A command that keeps running, its output, and what its processes report."""

    def __init__(self, command: str, folder: Path, environment: dict[str, str]) -> None:
        """Starts it in the folder; services listen on free ports and report here."""
        (self.name,) = re.findall(r"\b(calendar|notes|watch)(?:_app\.app|$)", command)
        self.reports = Reports(folder.parent / f"{self.name}.socket")
        self._output = folder.parent / f"{self.name}.txt"
        everywhere = {
            "DD_DOGSTATSD_URL": self.reports.url,
            "DD_RUNTIME_METRICS_INTERVAL": "0.3",
            "FLASK_RUN_PORT": "0",
        }
        variables, words = assigned(command)
        if self.name == "watch":
            words += ["--port", "0"]
        with self._output.open("wb") as output:
            self.process = psutil.Popen(
                [str(SERVERS / "bin" / words[0]), *words[1:]],
                cwd=folder,
                env=in_the_environment() | everywhere | environment | variables,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def printed(self) -> str:
        """Its output so far."""
        return self._output.read_text()

    @property
    def host(self) -> str:
        """The host and port on which it listens, from its output."""
        self.until(lambda: "Running on http://" in self.printed)
        (host,) = re.findall(r"Running on http://(127\.0\.0\.1:\d+)\s", self.printed)
        return str(host)

    def until(self, enough: Callable[[], bool]) -> None:
        """Waits until a condition holds; fails as soon as the program has ended."""
        deadline = time.monotonic() + TIMEOUT
        while not enough():
            assert self.process.poll() is None, self.printed
            assert time.monotonic() < deadline, f"{identities(self)}\n{self.printed}"
            time.sleep(0.02)

    def stop(self) -> None:
        """Ends all its processes and the receiver; there must be no error of ours."""
        family = [self.process, *self.process.children(recursive=True)]
        os.killpg(self.process.pid, signal.SIGINT)
        _, alive = psutil.wait_procs(family, TIMEOUT)
        assert alive == [], self.printed
        self.reports.stop()
        assert OUR_ERRORS.findall(self.printed) == [], self.printed

    def kill(self) -> None:
        """Kills every process that is left."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(TIMEOUT)
        self.reports.stop()


def in_the_environment() -> dict[str, str]:
    """The variables of a shell in which the tutorial's environment is active."""
    plain = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return plain | {"PATH": f"{SERVERS / 'bin'}:{os.environ['PATH']}"}


def assigned(command: str) -> tuple[dict[str, str], list[str]]:
    """The variables before a command, and its words."""
    words = shlex.split(command)
    variables = {}
    while "=" in words[0]:
        name, _, variables[name] = words.pop(0).partition("=")
    return variables, words


def identities(program: Program) -> dict[int, set[str]]:
    """The runtime-ids under which each of its processes has reported."""
    found: dict[int, set[str]] = {}
    for report in list(program.reports):
        found.setdefault(report.pid, set()).add(report.runtime_id)
    return found


def dated(text: str) -> str:
    """The text with DATE in the place of each date, which must be one of 2022."""
    assert all(datetime.strptime(found, "%m/%d/%Y").year == 2022 for found in DATE.findall(text))
    return DATE.sub("DATE", text)


def ask(program: Program, method: str, query: str = "", path: str = "/notes") -> tuple[int, str]:
    """The status and text of an answer."""
    request = Request(f"http://{program.host}{path}{query}", method=method)
    try:
        with build_opener(ProxyHandler({})).open(request, timeout=TIMEOUT) as response:
            return response.status, dated(response.read().decode())
    except HTTPError as error:
        with error:
            return error.code, ""


CONVERSATION = [
    ("GET", "", 200, "{}\n"),
    ("POST", "?desc=hello", 200, "(1, hello)"),
    ("GET", "?id=1", 200, "(1, hello)"),
    ("POST", "?desc=hello_again&add_date=y", 200, "(2, hello_again with date DATE)"),
    ("POST", "?desc=no_date&add_date=n", 200, "(3, no_date)"),
    ("PUT", "?id=3&desc=O'Brien,%20100%25%20sure?", 200, "(3, O'Brien, 100% sure?)"),
    (
        "GET",
        "",
        200,
        '{\n  "1": "hello",\n  "2": "hello_again with date DATE",\n  "3": "O\'Brien, 100% sure?"\n}\n',
    ),
    ("DELETE", "?id=1", 200, "Deleted"),
    ("GET", "?id=1", 200, "Note does not exist"),
    ("PUT", "?id=1&desc=hello", 200, "Note does not exist"),
    ("POST", "?desc=hello", 200, "(4, hello)"),
    ("POST", "", 400, ""),
    ("PUT", "?id=2", 400, ""),
    ("DELETE", "?id=all", 400, ""),
]


class Cluster(NamedTuple):
    """A temporary Postgres that listens on a Unix socket alone."""

    folder: Path
    programs: Path

    def start(self, program: str, *arguments: str | Path) -> subprocess.Popen[bytes]:
        """Starts one of its programs, as a user that Postgres accepts."""
        nobody = instead_of_root()
        client = {"PGHOST": str(self.folder), "PGUSER": "postgres", "PGPASSWORD": "password"}
        with (self.folder / f"{program}.txt").open("wb") as output:
            return subprocess.Popen(
                [self.programs / program, *arguments],
                cwd=self.folder,
                env={"LC_ALL": "C", "PATH": os.defpath} | client,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                user=nobody and nobody.pw_uid,
                group=nobody and nobody.pw_gid,
                extra_groups=[] if nobody else None,
            )

    def run(self, program: str, *arguments: str | Path) -> None:
        """Runs one of its programs to its end."""
        status = self.start(program, *arguments).wait(TIMEOUT)
        assert status == 0, (self.folder / f"{program}.txt").read_text()


def instead_of_root() -> pwd.struct_passwd | None:
    """The user that Postgres runs as, where the tests run as root."""
    return pwd.getpwnam("nobody") if os.getuid() == 0 else None


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A Postgres with the tutorial's password, of this machine's binaries."""
    folders = [os.environ["PATH"], *map(str, Path("/usr/lib/postgresql").glob("*/bin"))]
    if (found := shutil.which("initdb", path=":".join(folders))) is None:
        pytest.skip("no Postgres on this machine: the answers are those of SQLite alone")
    with tempfile.TemporaryDirectory(prefix="notes-") as folder:
        postgres = Cluster(Path(folder), Path(found).resolve().parent)
        if nobody := instead_of_root():
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        password = postgres.folder / "password"
        password.write_text("password\n")
        password.chmod(0o644)
        data = postgres.folder / "data"
        creation = "--no-sync --encoding=UTF8 --auth=scram-sha-256 --username=postgres --pwfile=password"
        postgres.run("initdb", *creation.split(), data)
        settings = ["--listen_addresses=", f"--unix_socket_directories={folder}", "--fsync=off"]
        server = postgres.start("postgres", "-D", data, *settings)
        try:
            deadline = time.monotonic() + TIMEOUT
            while postgres.start("pg_isready").wait(TIMEOUT) != 0:
                output = (postgres.folder / "postgres.txt").read_text()
                assert server.poll() is None, output
                assert time.monotonic() < deadline, output
                time.sleep(0.02)
            yield postgres
        finally:
            # It shuts down at once, with its processes; SIGKILL would leave those.
            server.send_signal(signal.SIGQUIT)
            server.wait(TIMEOUT)


@pytest.fixture(params=["memory", "postgres"])
def storage(request: pytest.FixtureRequest) -> dict[str, str]:
    """The variables for the storage of notes, which is empty."""
    if request.param == "memory":
        return {}
    postgres: Cluster = request.getfixturevalue("cluster")
    postgres.run("dropdb", "--force", "--if-exists", "testdb")
    postgres.run("createdb", "testdb")
    return {"DB_HOST": str(postgres.folder)}


@pytest.mark.parametrize(
    ("launcher", "reporting"), [("", 0), ("runtime-metrics run ", 2)], ids=["plain", "launched"]
)
def test_the_answers_are_the_tutorials_and_each_process_reports_if_launched(
    launcher: str, reporting: int, storage: dict[str, str], tutorial: Path
) -> None:
    with running(f"{launcher}python -m calendar_app.app", tutorial) as calendar:
        assert ask(calendar, "GET", path="/calendar") == (200, "DATE")
        settings = {"CALENDAR_URL": f"http://{calendar.host}/calendar"} | storage
        with running(f"{launcher}python -m notes_app.app", tutorial, **settings) as notes:
            answers = [(method, query, *ask(notes, method, query)) for method, query, _, _ in CONVERSATION]
            assert answers == CONVERSATION
            services = [calendar, notes]
            notes.until(lambda: all(len(identities(service)) >= reporting for service in services))
            families = [{service.process.pid, *descendants(service)} for service in services]
    assert list(map(len, families)) == [2, 2]
    found = [identities(service) for service in services]
    assert [ids.keys() for ids in found] == [family if launcher else set() for family in families]
    ids = [runtime_id for service in found for ids in service.values() for runtime_id in ids]
    assert len(set(ids)) == len(ids) == 2 * reporting


def descendants(program: Program) -> list[int]:
    """The other processes of a program."""
    return [child.pid for child in program.process.children(recursive=True)]


def test_a_saved_file_replaces_the_process_that_answers_and_its_id(tutorial: Path) -> None:
    with running("runtime-metrics run python -m notes_app.app", tutorial) as notes:
        assert ask(notes, "DELETE", "?id=1") == (200, "Deleted")
        notes.until(lambda: len(identities(notes)) == 2)
        (before,) = descendants(notes)
        save(tutorial, [('"Deleted"', '"Forgotten"')])
        notes.until(lambda: len(identities(notes)) == 3)
        (after,) = descendants(notes)
        replaced = len(notes.reports)
        notes.until(lambda: {report.pid for report in notes.reports[replaced:]} == {notes.process.pid, after})
        assert ask(notes, "DELETE", "?id=1") == (200, "Forgotten")
        watcher = notes.process.pid
    found = identities(notes)
    assert found.keys() == {watcher, before, after}
    assert [len(ids) for ids in found.values()] == [1, 1, 1]
    assert len(set().union(*found.values())) == 3
    last = {report.pid: report.at for report in notes.reports}
    first = {report.pid: report.at for report in reversed(notes.reports)}
    assert last[before] < first[after]


def test_without_its_calendar_a_note_with_a_date_is_refused_and_others_are_not(tutorial: Path) -> None:
    with running("python -m notes_app.app", tutorial, CALENDAR_URL="http://127.0.0.1:1/calendar") as notes:
        assert ask(notes, "POST", "?desc=hello&add_date=y") == (502, "")
        assert ask(notes, "POST", "?desc=hello") == (200, "(1, hello)")


def save(folder: Path, changes: list[tuple[str, str]]) -> None:
    """Edits the notes service as an editor does: each change once, then the whole file."""
    source = folder / "notes_app" / "app.py"
    text = source.read_text()
    for before, after in changes:
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    changed = source.with_suffix(".saved")
    changed.write_text(text)
    changed.replace(source)


class Step(NamedTuple):
    """A command of the README and its output there; none if the command keeps running."""

    command: str
    printed: str

    @property
    def keeps_running(self) -> bool:
        """Whether it keeps running, in a terminal of its own."""
        return self.command.endswith((".app", " watch"))


def part(number: int) -> str:
    """A numbered part of the README."""
    (text,) = re.findall(rf"^## {number}\. .*?(?=^## )", README, re.DOTALL | re.MULTILINE)
    return str(text)


def blocks(text: str, language: str) -> list[str]:
    """The blocks of one language in a text."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def steps(text: str) -> list[Step]:
    """The commands of the terminals in a text, in order."""
    return [
        Step(*step)
        for block in blocks(text, "console")
        for step in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
    ]


@contextmanager
def walk(number: int, folder: Path, **environment: str) -> Iterator[dict[str, Program]]:
    """Takes each step of a part of the README; yields the programs that keep running, by name."""
    if shutil.which("curl") is None:
        pytest.skip("no curl on this machine")
    programs: dict[str, Program] = {}
    with ExitStack() as stack:
        todo = steps(part(number))
        assert {step.keeps_running for step in todo} == {True, False}
        for step in todo:
            if step.keeps_running:
                assert step.printed == ""
                program = stack.enter_context(running(step.command, folder, **environment))
                programs[program.name] = program
                environment |= address(program)
            else:
                command = step.command.replace("localhost:8080", programs["notes"].host)
                done = subprocess.run(
                    ["sh", "-c", command],
                    env=in_the_environment(),
                    capture_output=True,
                    text=True,
                    check=True,
                    timeout=60,
                )
                assert (command, dated(done.stdout).rstrip()) == (command, dated(step.printed).rstrip())
        yield programs


def address(program: Program) -> dict[str, str]:
    """The variable that gives the address of a program to those started later."""
    if program.name == "calendar":
        return {"CALENDAR_URL": f"http://{program.host}/calendar"}
    if program.name == "watch":
        program.until(lambda: "\n" in program.printed)
        return {"DD_DOGSTATSD_URL": program.printed.splitlines()[0].removeprefix("listening on ")}
    return {}


def test_the_first_part_of_the_readme_shows_what_the_services_answer(tutorial: Path) -> None:
    with walk(1, tutorial) as programs:
        assert programs.keys() == {"calendar", "notes"}


def test_the_second_part_of_the_readme_shows_what_arrives(tutorial: Path) -> None:
    with walk(2, tutorial) as programs:
        (excerpt,) = blocks(part(2), "text")
        shown = set(re.findall(r"\b(?:runtime\.python|service:)[\w.]+", excerpt))
        assert len(shown) == 6
        watch = programs["watch"]
        watch.until(lambda: all(expected in watch.printed for expected in shown))
        watch.until(lambda: len(introduced(watch)) == 4)
        assert sorted(introduced(watch).values()) == ["calendar", "calendar", "notes", "notes"]


def introduced(watch: Program) -> dict[str, str]:
    """The service of each runtime-id in the output."""
    tags = re.findall(r"^tags of what follows: (.*)\n", watch.printed, re.MULTILINE)
    found = [re.search(r"service:(\w+) .*runtime-id:([0-9a-f]{32})", line) for line in tags]
    return {match[2]: match[1] for match in found if match}


class Intake(BaseHTTPRequestHandler):
    """The part of an Agent that takes traces."""

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        self.answer()

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.endswith("/traces"):
            assert isinstance(self.server, Agent)
            self.server.traces.append(body)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Logs nothing."""


class Agent(ThreadingHTTPServer):
    """Keeps the traces that it gets."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Intake)
        self.traces: list[bytes] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def has(self, *texts: str) -> bool:
        """Whether one payload holds all of these."""
        return any(all(text.encode() in trace for text in texts) for trace in self.traces)


@pytest.fixture
def agent() -> Iterator[Agent]:
    with Agent() as serving:
        threading.Thread(target=serving.serve_forever).start()
        try:
            yield serving
        finally:
            serving.shutdown()


def test_the_third_part_of_the_readme_gives_traces_beside_the_metrics(tutorial: Path, agent: Agent) -> None:
    need("ddtrace")
    with walk(3, tutorial, DD_TRACE_AGENT_URL=agent.url) as programs:
        notes = programs["notes"]
        notes.until(lambda: [len(identities(service)) for service in programs.values()] == [2, 2])
        for name, request in (("calendar", "GET /calendar"), ("notes", "POST /notes")):
            (answering,) = descendants(programs[name])
            (runtime_id,) = identities(programs[name])[answering]
            notes.until(partial(agent.has, request, name, runtime_id))
        assert not agent.has("ask_calendar")
        save(tutorial, [edit(block) for block in blocks(part(3), "diff")])
        notes.until(lambda: notes.printed.count("Debugger is active!") == 2)
        assert ask(notes, "POST", "?desc=hello&add_date=y") == (200, "(1, hello with date DATE)")
        notes.until(lambda: agent.has("ask_calendar", "notes"))
        notes.until(lambda: len(identities(notes)) == 3)


def edit(block: str) -> tuple[str, str]:
    """The text that a diff finds, and the text that replaces it; it only adds lines."""
    lines = block.splitlines(keepends=True)
    assert {line[0] for line in lines} == {" ", "+"}
    return "".join(line[1:] for line in lines if line[0] == " "), "".join(line[1:] for line in lines)


LINTED: dict[str, tuple[Callable[[Path], str], list[Mistake]]] = {
    "Dockerfile": (
        dockerfile,
        [
            Mistake("python:3.13-slim", "python", "DL3006"),
            Mistake("runtime-metrics~=0.1", "runtime-metrics", "DL3013"),
            Mistake("FROM base AS notes", "FROM base AS calendar", "DL3024"),
        ],
    ),
    "compose.yaml": (
        compose,
        [
            Mistake("extra_hosts:", "extra_host:", "'extra_host' was unexpected"),
            Mistake("condition: service_healthy", "condition: healthy", "'healthy' is not one of"),
        ],
    ),
    "kubernetes/calendar.yaml": (
        kubernetes,
        [Mistake("fieldPath: status.hostIP", "path: status.hostIP", "'fieldPath' is a required property")],
    ),
    "kubernetes/notes.yaml": (
        kubernetes,
        [
            Mistake("- port: 8080", "- ports: 8080", "'port' is a required property"),
            Mistake("containerPort: 8080", "containerPort: web", "'web' is not of type 'integer'"),
        ],
    ),
    "kubernetes/postgres.yaml": (
        kubernetes,
        [Mistake("readinessProbe:", "readyProbe:", "'readyProbe' was unexpected")],
    ),
}
MISTAKES = [(name, mistake) for name, (_, mistakes) in LINTED.items() for mistake in mistakes]


def test_every_file_for_containers_has_a_linter() -> None:
    found = [*NOTES.glob("*Dockerfile"), *NOTES.glob("*.yaml"), *NOTES.glob("kubernetes/*")]
    assert sorted(str(path.relative_to(NOTES)) for path in found) == sorted(LINTED)


@pytest.mark.parametrize("name", LINTED)
def test_the_linter_accepts_the_file(name: str, tmp_path: Path) -> None:
    lint, _ = LINTED[name]
    assert lint(Path(shutil.copy(NOTES / name, tmp_path))) == ""


@pytest.mark.parametrize(("name", "mistake"), MISTAKES)
def test_the_linter_notices_a_mistake(name: str, mistake: Mistake, tmp_path: Path) -> None:
    lint, _ = LINTED[name]
    text = (NOTES / name).read_text()
    assert mistake.right in text
    path = tmp_path / Path(name).name
    path.write_text(text.replace(mistake.right, mistake.wrong, 1))
    assert mistake.complaint in lint(path)


def test_the_images_run_what_the_third_part_of_the_readme_runs() -> None:
    images = re.findall(
        r"^ENV (DD_SERVICE=\w+)\n(?:(?!FROM|CMD).*\n)*CMD (.*)$",
        (NOTES / "Dockerfile").read_text(),
        re.MULTILINE,
    )
    commands = [step.command for step in steps(part(3)) if step.keeps_running]
    assert len(commands) == 2
    assert [f"{service} {shlex.join(json.loads(command))}" for service, command in images] == commands


def test_every_file_that_the_images_copy_or_the_readme_installs_exists() -> None:
    copied = re.findall(r"^COPY (.*) \S+$", (NOTES / "Dockerfile").read_text(), re.MULTILINE)
    sources = {source for sources in copied for source in sources.split()}
    requirements = {path.name for path in NOTES.glob("requirements*.txt")}
    assert sources == requirements | {path.parent.name for path in NOTES.glob("*/app.py")}
    assert set(re.findall(r"requirements[\w-]*\.txt", README)) == requirements
    assert len(sources) == 4


def test_the_readme_names_each_variable_and_each_that_is_set_is_read() -> None:
    read = {
        name
        for source in NOTES.glob("*/app.py")
        for name in re.findall(r'environ\.get\("(\w+)"', source.read_text())
    }
    assert (
        read
        == set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE))
        == {
            "CALENDAR_URL",
            "DB_HOST",
            "FLASK_RUN_HOST",
            "FLASK_RUN_PORT",
        }
    )
    ours = {variable.name for variable in _core.variables()}
    used = {
        (name, text)
        for text in [*LINTED, "README.md"]
        for name in re.findall(r"\b(?:[A-Z]+_)+[A-Z]+\b", (NOTES / text).read_text())
        if not name.startswith("POSTGRES_")
    }
    assert {name for name, _ in used} >= {"DD_AGENT_HOST", "DB_HOST"}
    assert sorted((name, text) for name, text in used if name not in ours | read) == []


def test_what_the_readme_shows_of_a_file_is_in_it() -> None:
    shown = [block for block in blocks(README, "yaml") if "DD_" in block]
    assert len(shown) == 2
    for block, name in zip(shown, ("compose.yaml", "kubernetes/notes.yaml"), strict=True):
        assert f"\n{block}" in (NOTES / name).read_text()
