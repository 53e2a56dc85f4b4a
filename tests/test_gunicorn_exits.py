"""The ends of Gunicorn's workers: what still leaves, for each class and cause; and that they end as without us."""

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
from masters import leading
from serving import PATIENCE, need

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from masters import Master

    Cause = Callable[[Master, int], None]

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="needs Linux, where a Unix socket tells which process has sent"
)

PAGE = Path(__file__).parent.parent / "docs" / "gunicorn-exits.md"

# What a worker has answered when its end comes, long before its first interval is over.
ANSWERED = 3
INTERVAL = "3600"

# Each of these cells holds two processes that mostly wait.
SIDE_BY_SIDE = 30


@dataclass(frozen=True)
class End:
    """A worker's exit status, if it has ended; the requests in each of its flushes; its samples of anything else."""

    status: int | None
    answered: tuple[float, ...]
    samples: int


def by(sent: signal.Signals) -> Cause:
    return lambda _, worker: psutil.Process(worker).send_signal(sent)


def by_the_master(sent: signal.Signals) -> Cause:
    return lambda server, _: server.leader.send_signal(sent)


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

# gthread's heart beats beside its requests; uvicorn's worker waits for nothing that SIGQUIT changes.
LIVES_ON = {("gthread", TOO_LONG), ("uvicorn", "SIGQUIT to the worker")}
LOST = {
    *((worker, "SIGKILL to the worker") for worker in CLASSES),
    ("asgi", TOO_LONG),
    ("uvicorn", TOO_LONG),
    ("uvicorn", "SIGABRT to the worker"),
}


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, str, str], Future[End]]]:
    """How a worker ends for each class and cause, with the integration's configuration and without."""
    need("gunicorn", "gevent", "packaging", "uvicorn-worker")
    with ThreadPoolExecutor(SIDE_BY_SIDE) as executor:
        yield {
            (*cell, config): executor.submit(end_of, tmp_path_factory.mktemp("exit"), *cell, config)
            for cell, config in product(CELLS, (OURS, ""))
        }


def end_of(folder: Path, worker_class: str, cause: str, config: str) -> End:
    """Has a server's only worker answer and end."""
    options, application = CLASSES[worker_class]
    options = f"{config} --workers 1 {options} {OPTIONS.get(cause, '')} held:{application}"
    with leading(options, folder, DD_RUNTIME_METRICS_INTERVAL=INTERVAL) as server:
        (pid,) = {server.ask() for _ in range(ANSWERED)}
        worker = psutil.Process(pid)
        CAUSES[cause](server, pid)
        psutil.wait_procs([worker], 3 if (worker_class, cause) in LIVES_ON else PATIENCE)
        lives_on = worker.is_running()
        if cause != "SIGTERM to the master":
            # Whoever answers has come so far that it can be ended.
            assert (server.ask() == pid) == lives_on
            assert server.end() == 0
        assert server.leader.wait(PATIENCE) == 0
        server.lines.stop()
        answered, samples = (
            [line.value for line in server.lines.named(name) if line.pid == pid]
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


@pytest.mark.parametrize(("worker", "cause"), CELLS)
def test_what_a_worker_has_answered_leaves_once_at_its_end_unless_nothing_can_run(
    ends: dict[tuple[str, str, str], Future[End]], worker: str, cause: str
) -> None:
    end = ends[worker, cause, OURS].result()
    if (worker, cause) in LOST:
        assert (end.answered, end.samples) == ((), 0)
    else:
        answered = ANSWERED + ((worker, cause) in LIVES_ON)
        assert (end.answered, end.samples) == ((answered,), 1)


@pytest.mark.parametrize(("worker", "cause"), CELLS)
def test_a_worker_ends_as_it_would_without_us(
    ends: dict[tuple[str, str, str], Future[End]], worker: str, cause: str
) -> None:
    with_us, without_us = (ends[worker, cause, config].result() for config in (OURS, ""))
    assert with_us.status == without_us.status
    assert (with_us.status is None) == ((worker, cause) in LIVES_ON)


def test_the_page_about_exits_of_gunicorns_workers_holds_what_is_tested_here() -> None:
    head, _, *rows = re.findall(r"^\| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    classes = head.replace("`", "").split(" | ")[1:]
    said = {
        (worker, cause): what
        for row in rows
        for cause, *whats in [row.split(" | ")]
        for worker, what in zip(classes, whats, strict=True)
    }
    assert said == {
        cell: "lost" if cell in LOST else "lives on" if cell in LIVES_ON else "sent" for cell in CELLS
    }
