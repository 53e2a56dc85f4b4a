"""Gunicorn's requests: each is counted once, with its status and duration, whether or not Gunicorn counts it too.

Gunicorn's statsd client is the oracle for what counts as a request, but not for its duration:
- A request that Gunicorn itself refuses counts if enough of it could be read: of the three refused here, the one with
  two lengths, and only where a request of WSGI is served. The classes of ASGI answer all three without a request.
- A response that has begun keeps its status, whatever becomes of it.
- WSGI: what fails before anything is sent is a 500, since the client gets one. ASGI: what has started has its status.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import product
from operator import le
from typing import TYPE_CHECKING

import pytest
from catalogue_names import BY_NAME, checks
from gunicorns import (
    CLASSES,
    IN_EVERY_FLUSH,
    NEEDS,
    OURS,
    PAGES,
    TWO_LENGTHS,
    Exchange,
    Lines,
    ask,
    ask_again,
    ask_at_once,
    disconnect_before_the_answer,
    disconnect_during_the_answer,
    gunicorn,
    received,
    request,
    send_bytes,
    status_of,
)
from serving import need

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(
        sys.platform != "linux", reason="needs Linux, where a Unix socket identifies the sender"
    ),
]

ACCESS_LOG = "--access-logfile {folder}/access"
STATSD = "--statsd-host {statsd}"
OPTIONS = {
    "plain": "",
    "statsd": STATSD,
    "statsd and access log": f"{STATSD} {ACCESS_LOG}",
    "access log and preload": f"{ACCESS_LOG} --preload",
}
CASES = [(worker, options) for worker in CLASSES for options in OPTIONS]
NO_REQUEST = b"NONSENSE\r\n\r\n"
NO_HEADER = b"GET / HTTP/1.1\r\nHost: localhost\r\nb\x01d: x\r\n\r\n"


@dataclass(frozen=True)
class Run:
    """A server, the requests as its clients saw them, and what arrived."""

    worker: str
    asked: list[Exchange]
    queued: list[Exchange]
    connections: int
    # Whether Gunicorn's statsd client counts requests instead of our core.
    by_gunicorn: bool
    lines: Lines
    statsd: Lines
    workers: set[int]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(case, id=" ".join(case), marks=pytest.mark.xdist_group(str(case))) for case in CASES
    ],
)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of which several tests check a part each."""
    worker, options = request.param
    need("gunicorn", *NEEDS.get(worker, "").split())
    return play(worker, options, tmp_path_factory.mktemp("run"))


def play(worker: str, options: str, folder: Path) -> Run:
    """Sends all kinds of requests to a server."""
    chosen, application = CLASSES[worker]
    wsgi = application == "wsgi"
    by_gunicorn = "statsd" in options and (wsgi or (worker == "asgi" and "access log" in options))
    command = f"{OURS} {chosen} --workers 2 {OPTIONS[options]} scripted:{application}"
    with gunicorn(command, folder) as server:
        asked = [ask(server, page) for page in PAGES]
        # Gunicorn's statsd client counts it twice, first with the status that was not sent.
        asked += [] if by_gunicorn else [ask(server, "/lazy")]
        asked.append(ask(server, "/", method="HEAD"))
        asked.append(disconnect_during_the_answer(server))
        # An ASGI server may cancel the application: then there is no answer.
        asked += [disconnect_before_the_answer(server)] if wsgi else []
        again, connections = ask_again(server, 4)
        refused = [send_bytes(server, "", data) for data in (NO_REQUEST, NO_HEADER, TWO_LENGTHS)]
        assert [one.status for one in refused] == [400, 400, 400]
        queued = [ask(server, page, f"X-Request-Start: {start}\r\n") for page, start in starts()]
        workers = server.workers()
        server.until_all_is_reported()
        assert server.stop() == 0
    asked += [*again, *(refused[2:] if wsgi else []), *queued]
    return Run(worker, asked, queued, connections, by_gunicorn, server.lines, server.statsd, workers)


def starts() -> Iterator[tuple[str, str]]:
    """The start of a request according to a proxy: a quarter of a second ago in every form, then invalid ones.

    A generator, so that each request has its own start, however long the requests before it took.
    """
    yield "/", f"t={time.time() - 0.25:.6f}"
    yield "/missing", str(int((time.time() - 0.25) * 1e3))
    yield "/silent", str(int((time.time() - 0.25) * 1e6))
    yield "/failing", "yesterday"
    yield "/slow", f"t={time.time() + 3600:.3f}"


@checks("gunicorn.requests", "gunicorn.request.status")
def test_a_request_is_counted_once_with_its_status(run: Run) -> None:
    statuses = Counter(200 if one.status is None else one.status for one in run.asked)
    expected = {f"gunicorn.request.status.{status}": times for status, times in statuses.items()}
    expected["gunicorn.requests"] = len(run.asked)
    counting, silent = (run.statsd, run.lines) if run.by_gunicorn else (run.lines, run.statsd)
    assert counting.sums("gunicorn.request") == expected
    assert silent.named("gunicorn.requests") == silent.named("gunicorn.request.status") == []
    assert {line.pid for line in counting.named("gunicorn.request")} <= run.workers


@checks("gunicorn.request.duration")
def test_a_request_has_one_duration_and_it_is_correct(run: Run) -> None:
    # Gunicorn's statsd client measures only the answer to an exception.
    least = sorted(0 if run.by_gunicorn and one.status == 500 else one.min_duration for one in run.asked)
    most = sorted(one.max_duration for one in run.asked)
    counting, silent = (run.statsd, run.lines) if run.by_gunicorn else (run.lines, run.statsd)
    durations = counting.values("gunicorn.request.duration")
    assert len(durations) == len(run.asked)
    early = [(one, other) for one, other in zip(least, durations, strict=True) if one > other]
    assert early == []
    assert all(map(le, durations, [limit + 20 for limit in most])), (durations, most)
    assert {(line.type, line.rate) for line in counting.named("gunicorn.request.duration")} == {("ms", None)}
    assert silent.named("gunicorn.request.duration") == []


@checks("gunicorn.request.queue_time")
def test_a_request_has_a_queue_time_where_a_proxy_sends_its_start(run: Run) -> None:
    times = run.lines.values("gunicorn.request.queue_time")
    most = sorted(250 + one.max_duration + 20 for one in run.queued[:3])
    assert len(times) == 3
    assert min(times) >= 250
    assert all(map(le, times, most)), (times, most)


def test_connections_are_kept_alive_as_without_us(run: Run) -> None:
    assert run.connections == (4 if run.worker == "sync" else 1)


def test_every_flush_of_a_worker_counts_its_requests(run: Run) -> None:
    flushes = Counter(line.pid for line in run.lines.named(IN_EVERY_FLUSH) if line.pid in run.workers)
    counted = Counter(line.pid for line in run.lines.named("gunicorn.requests"))
    assert len(flushes) == 2
    assert counted == (Counter() if run.by_gunicorn else flushes)


def test_metrics_by_name_are_not_sent_where_no_setting_names_them(run: Run) -> None:
    assert run.lines.named(IN_EVERY_FLUSH) != []
    assert run.lines.named("gunicorn.worker.") == []
    assert BY_NAME
    assert [name for name in BY_NAME if run.lines.named(name)] == []


@checks("gunicorn.log.critical", "gunicorn.log.error", "gunicorn.log.warning", "gunicorn.log.exception")
@pytest.mark.parametrize("worker", ["sync", "gevent", "uvicorn"])
@pytest.mark.parametrize("options", ["plain", "statsd"])
def test_each_process_counts_what_it_writes_on_gunicorns_log(
    worker: str, options: str, tmp_path: Path
) -> None:
    need("gunicorn", *NEEDS.get(worker, "").split())
    chosen, application = CLASSES[worker]
    command = f"--config logging_conf.py {chosen} {OPTIONS[options]} scripted:{application}"
    with gunicorn(command, tmp_path) as server:
        # uvicorn logs this error with a logger of its own, to the same handlers.
        ask(server, "/silent" if worker == "uvicorn" else "/")
        server.until_all_is_reported()
        processes = {server.process.pid, *server.workers()}
        assert server.stop() == 0
    counting, silent = (server.statsd, server.lines) if options == "statsd" else (server.lines, server.statsd)
    counted: Counter[tuple[int, str]] = Counter()
    for line in counting.named("gunicorn.log."):
        counted[line.pid, line.name] += round(sum(line.values))
    levels = ("critical", "error", "warning", "exception")
    assert counted == dict.fromkeys(product(processes, (f"gunicorn.log.{level}" for level in levels)), 1)
    assert silent.named("gunicorn.log.") == []


@pytest.mark.parametrize("worker", ["sync", "gthread", "gevent"])
def test_a_body_that_cannot_be_read_has_the_status_that_the_worker_answers_with(
    worker: str, tmp_path: Path
) -> None:
    need("gunicorn", *NEEDS.get(worker, "").split())
    body = b"POST /taking HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nno number\r\n"
    with gunicorn(f"{OURS} {CLASSES[worker][0]} scripted:wsgi", tmp_path) as server:
        assert send_bytes(server, "/taking", body).status == 400
        assert server.stop() == 0
    assert server.lines.sums("gunicorn.request") == {"gunicorn.requests": 1, "gunicorn.request.status.400": 1}


def test_requests_are_counted_if_gunicorns_statsd_receiver_is_missing_at_the_start(tmp_path: Path) -> None:
    need("gunicorn")
    options = f"{OURS} {CLASSES['sync'][0]} --statsd-host unix://{tmp_path}/nobody scripted:wsgi"
    with gunicorn(options, tmp_path) as server:
        ask(server, "/")
        assert server.stop() == 0
    assert server.lines.sums("gunicorn.requests") == {"gunicorn.requests": 1}


@pytest.mark.measures
@pytest.mark.parametrize("worker", ["sync", "gthread", "gevent"])
def test_what_a_users_hook_does_after_an_answer_is_not_part_of_the_request(
    worker: str, tmp_path: Path
) -> None:
    need("gunicorn", *NEEDS.get(worker, "").split())
    with gunicorn(f"--config slow_conf.py {CLASSES[worker][0]} scripted:wsgi", tmp_path) as server:
        ask(server, "/")
        ask(server, "/lazy")
        assert server.stop() == 0
    durations = server.lines.values("gunicorn.request.duration")
    assert len(durations) == 2
    # Less than the hook sleeps.
    assert max(durations) < 500


@pytest.mark.parametrize("worker", ["asgi", "uvicorn"])
def test_what_an_application_does_after_its_answer_is_not_part_of_the_request(
    worker: str, tmp_path: Path
) -> None:
    need("gunicorn", *NEEDS.get(worker, "").split())
    with gunicorn(f"{OURS} {CLASSES[worker][0]} scripted:asgi", tmp_path) as server:
        server.held.touch()
        with closing(server.connection()) as connection:
            connection.sendall(request("/background"))
            assert status_of(received(connection)) == 200
            server.until(lambda: server.lines.sums("gunicorn.requests"))
        server.held.unlink()
        assert server.stop() == 0
    assert server.lines.sums("gunicorn.requests") == {"gunicorn.requests": 1}


@pytest.mark.parametrize("worker", CLASSES)
def test_the_final_report_of_a_worker_contains_its_requests(worker: str, tmp_path: Path) -> None:
    need("gunicorn", *NEEDS.get(worker, "").split())
    chosen, application = CLASSES[worker]
    # One worker, so that none is starting when the server is stopped: Gunicorn would wait half a minute for it.
    command = f"{OURS} {chosen} --workers 1 --max-requests 3 scripted:{application}"
    with gunicorn(command, tmp_path, DD_RUNTIME_METRICS_INTERVAL="3600") as server:
        assert [ask(server, "/missing").status for _ in range(10)] == [404] * 10
        assert server.stop() == 0
    expected = {"gunicorn.requests": 10, "gunicorn.request.status.404": 10}
    assert server.lines.sums("gunicorn.request") == expected
    assert len(server.lines.values("gunicorn.request.duration")) == 10


def test_of_too_many_durations_a_reservoir_sample_is_sent_with_its_rate(tmp_path: Path) -> None:
    need("gunicorn", *NEEDS["gevent"].split())
    command = f"{OURS} {CLASSES['gevent'][0]} scripted:wsgi"
    with gunicorn(command, tmp_path, DD_RUNTIME_METRICS_INTERVAL="3600") as server:
        assert ask_at_once(server, "/", connections=1, times=3000) == 3000
        assert ask_at_once(server, "/slow", connections=60, times=50) == 3000
        assert server.stop() == 0
    lines = server.lines.named("gunicorn.request.duration")
    durations = [value for line in lines for value in line.values]
    assert server.lines.sums("gunicorn.request") == {
        "gunicorn.requests": 6000,
        "gunicorn.request.status.200": 6000,
    }
    assert len(durations) == 4096
    assert sum(len(line.values) / (line.rate or 0) for line in lines) == pytest.approx(6000, abs=1)
    # Half of the requests were slow; six standard deviations are 107.
    assert sum(duration >= 20 for duration in durations) == pytest.approx(2048, abs=107)


SATURATED = {
    "sync": ("", 1, {"requests.active": 1, "busy.percent": 100}),
    "gthread": ("", 2, {"requests.active": 2, "connections": 3, "busy.percent": 50}),
    "gevent": ("--worker-connections 4", 2, {"requests.active": 2, "connections": 3, "busy.percent": 50}),
    "asgi": ("--worker-connections 4", 2, {"requests.active": 2, "connections": 3, "busy.percent": 50}),
    "uvicorn": ("", 2, {"requests.active": 2}),
}


@checks("gunicorn.worker.requests.active", "gunicorn.worker.connections", "gunicorn.worker.busy.percent")
@pytest.mark.parametrize("worker", SATURATED)
def test_a_worker_reports_how_busy_it_is_if_settings_name_these_metrics(worker: str, tmp_path: Path) -> None:
    need("gunicorn", *NEEDS.get(worker, "").split())
    chosen, application = CLASSES[worker]
    limit, holding, expected = SATURATED[worker]
    include = {"DD_RUNTIME_METRICS_INCLUDE": "gunicorn.worker.*"}
    command = f"{OURS} {chosen} {limit} scripted:{application}"
    with ExitStack() as stack:
        server = stack.enter_context(gunicorn(command, tmp_path, **include))
        server.held.touch()
        # One connection that has had its answer, where connections are kept alive.
        for path in ["/"] * (worker != "sync") + ["/held"] * holding:
            connection = stack.enter_context(closing(server.connection()))
            connection.sendall(request(path))
            assert status_of(received(connection)) == 200
        server.until(lambda: saturation(server.lines) == pytest.approx(expected, abs=0.5))
        server.held.unlink()
        server.until(lambda: saturation(server.lines)["requests.active"] == 0)


def saturation(lines: Lines) -> dict[str, float]:
    """The last value of each metric."""
    found = lines.named("gunicorn.worker.")
    return {line.name.removeprefix("gunicorn.worker."): line.values[-1] for line in found}
