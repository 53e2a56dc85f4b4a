"""One identity with the traces: processes under ddtrace, their spans and their metrics compared."""

from __future__ import annotations

import sys
import threading
from collections import Counter, defaultdict
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from catalogue_names import NAMES
from peers import PEERS
from serving import SERVERS, need, serving
from test_notes import Program, ask, copied, descendants, running
from tracing import Line, Metrics, Span, TraceAgent

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(
        sys.platform != "linux", reason="needs Linux, where a Unix socket identifies the sender"
    ),
]

LAUNCHERS = ["runtime-metrics run ddtrace-run", "ddtrace-run runtime-metrics run"]
NEITHER_SAYS: dict[str, str] = {}
BOTH_START = {"DD_RUNTIME_METRICS_ENABLED": "true"}
OURS_BY_FORCE = BOTH_START | {"DD_RUNTIME_METRICS_FORCE": "true"}
ALONE = pytest.mark.parametrize(
    "switches", [pytest.param(NEITHER_SAYS, id="unset"), pytest.param(OURS_BY_FORCE, id="forced")]
)


@pytest.fixture(scope="module")
def one_agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TraceAgent]:
    need("ddapm-test-agent", among=PEERS)
    agent = TraceAgent(tmp_path_factory.mktemp("agent"))
    try:
        yield agent
    finally:
        agent.stop()


@pytest.fixture
def agent(one_agent: TraceAgent) -> TraceAgent:
    """An agent without spans."""
    one_agent.clear()
    return one_agent


@pytest.fixture
def metrics(tmp_path: Path) -> Iterator[Metrics]:
    """What both libraries send."""
    metrics = Metrics(tmp_path / "metrics")
    yield metrics
    metrics.stop()


@pytest.fixture
def environment(agent: TraceAgent, metrics: Metrics) -> dict[str, str]:
    """The variables that name the processes and their receivers."""
    need("ddtrace", "flask", "requests", "runtime-metrics")
    return {
        "DD_DOGSTATSD_URL": metrics.url,
        "DD_ENV": "staging",
        "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
        "DD_REMOTE_CONFIGURATION_ENABLED": "false",
        # A tick waits a tenth of it for the names of the tracer, and the first one comes when a worker has booted.
        "DD_RUNTIME_METRICS_INTERVAL": "2",
        "DD_TRACE_AGENT_URL": agent.url,
        "DD_VERSION": "1.4.2",
        "PATH": f"{SERVERS / 'bin'}:/usr/bin:/bin",
    }


@contextmanager
def load(notes: Program) -> Iterator[list[tuple[int, str]]]:
    """Clients that add notes with dates, one after the other; yields their answers."""
    answers: list[tuple[int, str]] = []
    leaving = threading.Event()

    def keep_asking() -> None:
        while not leaving.is_set():
            answers.append(ask(notes, "POST", "?desc=hello&add_date=y"))

    clients = [threading.Thread(target=keep_asking) for _ in range(3)]
    for client in clients:
        client.start()
    try:
        yield answers
    finally:
        leaving.set()
        for client in clients:
            client.join()


@ALONE
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_spans_of_both_services_and_their_metrics_name_the_same_processes_and_services(
    launcher: str,
    switches: dict[str, str],
    environment: dict[str, str],
    agent: TraceAgent,
    metrics: Metrics,
    tmp_path: Path,
) -> None:
    folder, environment = copied(tmp_path), environment | switches
    with running(
        f"DD_SERVICE=calendar {launcher} python -m calendar_app.app", folder, **environment
    ) as calendar:
        environment["CALENDAR_URL"] = f"http://{calendar.host}/calendar"
        with running(f"DD_SERVICE=notes {launcher} python -m notes_app.app", folder, **environment) as notes:
            with load(notes) as answers:
                notes.until(lambda: len(answers) >= 50 and each_has_sent_twice(metrics, 4))
            services = {"calendar": calendar, "notes": notes}
            families = {name: {of.process.pid, *descendants(of)} for name, of in services.items()}
            # At its exit, ddtrace may run out of time for what it has not sent yet.
            notes.until(
                lambda: sum(span.name == "flask.request" for span in agent.spans()) >= 2 * len(answers)
            )
    metrics.stop()
    spans, ours = agent.spans(), metrics.ours
    # All but the process that waits for the calendar's file to be saved have something to trace.
    reporting = {(line.pid, line.tags["runtime-id"]) for line in ours}
    assert {(span.pid, span.runtime_id) for span in spans} == {
        (pid, runtime_id) for pid, runtime_id in reporting if pid != calendar.process.pid
    }
    pids, ids = zip(*reporting, strict=True)
    assert len(set(ids)) == len(reporting) == 4
    assert set(pids) == families["calendar"] | families["notes"]
    requests = [span for span in spans if span.name == "flask.request"]
    for name, family in families.items():
        assert len(family) == 2
        identity = {called(line) for line in ours if line.pid in family}
        assert identity == {(name, "staging", "1.4.2")}
        assert identity == {(span.service, span.env, span.version) for span in requests if span.pid in family}
    assert {status for status, _ in answers} == {200}
    assert Counter(span.service for span in requests) == dict.fromkeys(families, len(answers))
    check_sources(metrics, forced="DD_RUNTIME_METRICS_FORCE" in switches)


def each_has_sent_twice(metrics: Metrics, number: int) -> bool:
    """Whether so many processes have sent each of our names twice."""
    sent = Counter((line.pid, line.name) for line in metrics.ours)
    return len(sent) == number * len(NAMES) and min(sent.values()) >= 2


def called(line: Line) -> tuple[str, str, str]:
    """Service, env and version."""
    return line.tags["service"], line.tags["env"], line.tags["version"]


def check_sources(metrics: Metrics, *, forced: bool) -> None:
    """Each name came from us in each process; where we had to disable ddtrace, its last sample came first."""
    theirs = {line.name for line in metrics.theirs}
    if forced:
        assert_names_of_ddtrace(theirs)
    else:
        assert theirs == set()
    sources: defaultdict[tuple[int, str], list[bool]] = defaultdict(list)
    for line in metrics.all():
        sources[line.pid, line.name].append(line.is_ours)
    assert sources, "no line has arrived"
    assert sources.keys() == {(pid, name) for pid, _ in sources for name in NAMES}
    first = {(name, *is_ours[:2]) for (_, name), is_ours in sources.items()}
    assert first == {(name, name not in theirs, True) for name in NAMES}
    assert all(all(is_ours[1:]) for is_ours in sources.values())


def assert_names_of_ddtrace(names: set[str]) -> None:
    """Fails unless these are several names, and each is a name of ours."""
    assert len(names) > 1
    assert names <= set(NAMES)


def test_while_ddtrace_sends_runtime_metrics_each_name_comes_from_it_alone(
    environment: dict[str, str], metrics: Metrics, tmp_path: Path
) -> None:
    with running(
        f"{LAUNCHERS[0]} python -m notes_app.app", copied(tmp_path), **environment, **BOTH_START
    ) as notes:
        # The period of ddtrace is ten seconds; the variable is ours alone.
        notes.until(lambda: len({line.pid for line in metrics.theirs}) == 2)
        family = {notes.process.pid, *descendants(notes)}
        assert all(both_run(pid) for pid in family)
    metrics.stop()
    names = {line.name for line in metrics.theirs}
    assert_names_of_ddtrace(names)
    assert {line.name for line in metrics.ours} == set(NAMES) - names
    sent = Counter((line.pid, line.name) for line in metrics.theirs)
    assert sent == {(pid, name): 2 for pid in family for name in names}, (
        "a sample of the period, and the last"
    )


GUNICORN = (
    "{servers}/bin/gunicorn --no-control-socket --preload --bind unix:{socket} --workers 2 --chdir ."
    " pages:application"
)


@ALONE
@pytest.mark.parametrize("service", ["shop", None])
def test_workers_of_a_preloading_gunicorn_have_the_ids_of_their_spans_and_ddtraces_service(
    service: str | None,
    switches: dict[str, str],
    environment: dict[str, str],
    agent: TraceAgent,
    metrics: Metrics,
    tmp_path: Path,
) -> None:
    need("gunicorn")
    named = {"DD_SERVICE": service} if service else {}
    with serving(f"{LAUNCHERS[0]} {GUNICORN}", tmp_path, **environment, **switches, **named) as server:
        server.until(lambda: len(server.clients.answered) == 2 and each_has_sent_twice(metrics, 3))
        assert server.stop() == 0
    metrics.stop()
    spans, ours = agent.spans(), metrics.ours
    workers = identities(spans)
    assert workers.keys() == server.clients.answered.keys()
    reporting = {(line.pid, line.tags["runtime-id"]) for line in ours}
    assert len({runtime_id for _, runtime_id in reporting}) == len(reporting) == 3
    # The master has nothing to trace.
    assert {pair for pair in reporting if pair[0] != server.process.pid} == set(workers.items())
    ((name, env, version),) = {called(line) for line in ours}
    assert {(span.service, span.env) for span in spans} == {(name, env)}
    # ddtrace infers the outermost folder with Python files, of those that the command names.
    assert (name, env, version) == (service or "tests", "staging", "1.4.2")
    # The service of an integration has no version.
    assert {span.version for span in spans} == {version if service else None}


def both_run(pid: int) -> bool:
    """Whether a process has the threads of both libraries."""
    names = set()
    for path in Path(f"/proc/{pid}/task").glob("*/comm"):
        # Some threads of ddtrace end at once.
        with suppress(FileNotFoundError, ProcessLookupError):
            names.add(path.read_text().strip())
    return names >= {"RuntimeWorker", "rtm-sampler"}


def identities(spans: list[Span]) -> dict[int, str]:
    """The runtime-id of each process that has traced."""
    pairs = {(span.pid, span.runtime_id) for span in spans}
    found = dict(pairs)
    assert len(set(found.values())) == len(found) == len(pairs)
    return found


def test_in_workers_ddtraces_metrics_carry_the_masters_id_where_spans_carry_the_workers(
    environment: dict[str, str], agent: TraceAgent, metrics: Metrics, tmp_path: Path
) -> None:
    """As of ddtrace 4.16; with its metrics, a worker's spans cannot be correlated."""
    need("gunicorn")
    environment |= BOTH_START | {"DD_RUNTIME_METRICS_RUNTIME_ID_ENABLED": "true"}
    with serving(f"{LAUNCHERS[0]} {GUNICORN}", tmp_path, **environment) as server:
        server.until(lambda: len(server.clients.answered) == 2)
        # ddtrace starts a new thread in a child, which sends when the process ends.
        server.until(lambda: all(both_run(pid) for pid in server.clients.answered))
        assert server.stop() == 0
    metrics.stop()
    workers = identities(agent.spans())
    assert workers.keys() == server.clients.answered.keys()
    pids = {line.pid for line in metrics.theirs}
    (masters,) = {line.tags["runtime-id"] for line in metrics.theirs}
    assert pids == {server.process.pid, *workers}
    assert masters not in workers.values()
    names = {line.name for line in metrics.theirs}
    assert_names_of_ddtrace(names)
    assert {line.name for line in metrics.ours}.isdisjoint(names)
