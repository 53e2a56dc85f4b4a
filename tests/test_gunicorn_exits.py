"""How Gunicorn's workers end: what they still report, for each class and cause, and that they end as without us."""

from __future__ import annotations

import re
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from gunicorns import CLASSES, OURS
from masters import running_master
from serving import TIMEOUT, need

if TYPE_CHECKING:
    from collections.abc import Callable

    from masters import Master

    Cause = Callable[[Master, int], None]

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(
        sys.platform != "linux", reason="needs Linux, where a Unix socket identifies the sender"
    ),
]

PAGE = Path(__file__).parent.parent / "docs" / "gunicorn-exits.md"

# How many requests a worker has answered when it ends, long before its first interval is over.
ANSWERED = 3
INTERVAL = "3600"


@dataclass(frozen=True)
class End:
    """A worker's exit status, if it has ended; the requests in each of its flushes; the number of its flushes."""

    status: int | None
    answered: tuple[float, ...]
    samples: int


@dataclass(frozen=True)
class Ends:
    """How a worker of this class ends for this cause, with the integration's configuration and without."""

    worker: str
    cause: str
    with_us: End
    without_us: End

    @property
    def cell(self) -> tuple[str, str]:
        """Its cell in the table of docs/gunicorn-exits.md."""
        return self.worker, self.cause


def by(sent: signal.Signals) -> Cause:
    return lambda _, worker: psutil.Process(worker).send_signal(sent)


def by_the_master(sent: signal.Signals) -> Cause:
    return lambda server, _: server.master.send_signal(sent)


def by_a_long_request(server: Master, _: int) -> None:
    with server.request("/block") as request:
        request.end()


def by_itself(*_: object) -> None:
    pass


TOO_LONG = "a request longer than `timeout`"
RECYCLED = "`max_requests`"
CAUSES: dict[str, Cause] = {
    "SIGTERM to the worker": by(signal.SIGTERM),
    "SIGHUP to the master, which reloads": by_the_master(signal.SIGHUP),
    "SIGTERM to the master": by_the_master(signal.SIGTERM),
    "SIGINT to the worker": by(signal.SIGINT),
    "SIGQUIT to the worker": by(signal.SIGQUIT),
    "SIGABRT to the worker": by(signal.SIGABRT),
    TOO_LONG: by_a_long_request,
    RECYCLED: by_itself,
    "SIGKILL to the worker": by(signal.SIGKILL),
}
OPTIONS = {TOO_LONG: "--timeout 3", RECYCLED: f"--max-requests {ANSWERED}"}
CELLS = list(product(CLASSES, CAUSES))

# gthread sends its heartbeat from another thread than its requests; uvicorn's worker ignores SIGQUIT.
LIVES_ON = {("gthread", TOO_LONG), ("uvicorn", "SIGQUIT to the worker")}
LOST = {
    *((worker, "SIGKILL to the worker") for worker in CLASSES),
    ("asgi", TOO_LONG),
    ("uvicorn", TOO_LONG),
    ("uvicorn", "SIGABRT to the worker"),
}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(cell, id=": ".join(cell), marks=pytest.mark.xdist_group(str(cell))) for cell in CELLS
    ],
)
def ends(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ends:
    """How a worker of a class ends for a cause, with the integration's configuration and without."""
    need("gunicorn", "gevent", "packaging", "uvicorn-worker")
    worker, cause = request.param

    def end(config: str) -> End:
        return end_of(tmp_path_factory.mktemp("exit"), worker, cause, config)

    with ThreadPoolExecutor(2) as side_by_side:
        with_us, without_us = side_by_side.map(end, (OURS, ""))
    return Ends(worker, cause, with_us, without_us)


def end_of(folder: Path, worker_class: str, cause: str, config: str) -> End:
    """Has the only worker of a server answer requests and end."""
    options, application = CLASSES[worker_class]
    options = f"{config} --workers 1 {options} {OPTIONS.get(cause, '')} held:{application}"
    with running_master(options, folder, DD_RUNTIME_METRICS_INTERVAL=INTERVAL) as server:
        (pid,) = {server.ask() for _ in range(ANSWERED)}
        worker = psutil.Process(pid)
        CAUSES[cause](server, pid)
        psutil.wait_procs([worker], 3 if (worker_class, cause) in LIVES_ON else TIMEOUT)
        lives_on = worker.is_running()
        if cause != "SIGTERM to the master":
            # A worker that answers can be stopped.
            assert (server.ask() == pid) == lives_on
            assert server.end() == 0
        assert server.master.wait(TIMEOUT) == 0
        server.lines.stop()
        answered, samples = (
            [line.value for line in server.lines.of(name) if line.pid == pid]
            for name in ("gunicorn.request.status.200", "runtime.python.mem.rss")
        )
        return End(
            None if lives_on else status(pid, server.stderr()), answered=tuple(answered), samples=len(samples)
        )


def status(pid: int, log: str) -> int:
    """A worker's exit status, of which the master logs all but 0."""
    found = re.search(rf"\(pid:{pid}\) (?:was sent (?P<by>SIG[A-Z]+)|exited with code (?P<code>[0-9]+))", log)
    if found is None:
        return 0
    return -signal.Signals[found["by"]] if found["by"] else int(found["code"])


def test_a_worker_reports_its_requests_once_when_it_ends_unless_no_code_can_run(ends: Ends) -> None:
    answered, samples = ends.with_us.answered, ends.with_us.samples
    if ends.cell in LOST:
        assert (answered, samples) == ((), 0)
    else:
        assert (answered, samples) == ((ANSWERED + (ends.cell in LIVES_ON),), 1)


def test_a_worker_ends_as_it_would_without_us(ends: Ends) -> None:
    assert ends.with_us.status == ends.without_us.status
    assert (ends.with_us.status is None) == (ends.cell in LIVES_ON)


def test_the_page_about_exits_of_gunicorns_workers_matches_these_tests() -> None:
    head, _, *rows = re.findall(r"^\| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    classes = head.replace("`", "").split(" | ")[1:]
    documented = {
        (worker, cause): what
        for row in rows
        for cause, *whats in [row.split(" | ")]
        for worker, what in zip(classes, whats, strict=True)
    }
    assert documented == {
        cell: "lost" if cell in LOST else "lives on" if cell in LIVES_ON else "sent" for cell in CELLS
    }
