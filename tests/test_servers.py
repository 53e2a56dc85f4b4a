"""Every common server, with two workers under load: each process reports itself and no other."""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from catalogue_names import also_at_standard
from serving import need, serving

from runtime_metrics.cli.run import BOOTSTRAP

if TYPE_CHECKING:
    from pathlib import Path

    from serving import Service

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(
        sys.platform != "linux", reason="needs Linux, where a Unix socket identifies the sender"
    ),
]


@dataclass(frozen=True)
class Server:
    """A command as people type it, the distributions it needs, and where metrics are enabled."""

    command: str
    needs: str = ""
    enable_in: str = "application"
    # How many processes besides the two workers report: those in which metrics were enabled.
    others: int = 0
    # The name of the application: without a variable, each process has it.
    service: str = "application"


GUNICORN = "gunicorn --no-control-socket --config gunicorn_conf.py --bind unix:{socket} --workers 2"
GUNICORN_WORKERS = {
    "sync": ("--worker-class sync application:wsgi", "gunicorn"),
    "gthread": ("--worker-class gthread --threads 2 application:wsgi", "gunicorn"),
    "gevent": ("--worker-class gevent application:wsgi", "gunicorn gevent packaging"),
    "uvicorn": ("--worker-class uvicorn_worker.UvicornWorker application:asgi", "gunicorn uvicorn-worker"),
}
UVICORN = "uvicorn --uds {socket} --workers 2 application:asgi"
GRANIAN = "granian --uds {socket} --workers 2"
UWSGI = (
    "uwsgi --virtualenv {servers} --http-socket {socket} --master --processes 2 --enable-threads --die-on-term"
    " --need-app --disable-logging --module application:wsgi"
)

SERVERS = {
    **{
        f"gunicorn {name}, enabled in {place}{preload}": Server(
            f"{GUNICORN} {preload} {options}",
            needs,
            enable_in=place,
            others=0 if (place, preload) == ("application", "") else 1,
        )
        for name, (options, needs) in GUNICORN_WORKERS.items()
        for place in ("application", "on_starting", "when_ready")
        for preload in ("", " --preload")
    },
    "gunicorn sync, launched": Server(
        f"runtime-metrics run {{servers}}/bin/{GUNICORN} application:wsgi",
        "gunicorn",
        enable_in="launcher",
        others=1,
    ),
    **{
        f"{name}, launched": Server(
            f"runtime-metrics run {{servers}}/bin/{command}",
            name,
            enable_in="launcher",
            others=others,
            service=service,
        )
        for name, command, others, service in (
            ("uvicorn", "uvicorn --uds {socket} --workers 2 application:asgi", 1, "application"),
            ("hypercorn", "hypercorn --bind unix:{socket} --workers 2 application:asgi", 1, "application"),
            (
                "granian",
                "granian --uds {socket} --workers 2 --interface wsgi application:wsgi",
                1,
                "application",
            ),
            ("celery", "python tasks.py {socket}", 2, "tasks"),
        )
    },
    "uvicorn asyncio": Server(f"{UVICORN} --loop asyncio", "uvicorn"),
    "uvicorn uvloop": Server(f"{UVICORN} --loop uvloop", "uvicorn uvloop"),
    "hypercorn": Server("hypercorn --bind unix:{socket} --workers 2 application:asgi", "hypercorn"),
    "granian asgi": Server(f"{GRANIAN} --interface asgi application:asgi", "granian"),
    "granian wsgi": Server(f"{GRANIAN} --interface wsgi application:wsgi", "granian"),
    "uwsgi": Server(UWSGI, "uwsgi", others=1),
    "uwsgi, Python's fork hooks": Server(f"{UWSGI} --py-call-uwsgi-fork-hooks", "uwsgi", others=1),
    "uwsgi, lazy": Server(f"{UWSGI} --lazy-apps", "uwsgi"),
    "uwsgi, import": Server(
        "uwsgi --ini {examples}/uwsgi.ini --virtualenv {servers} --http-socket {socket} --disable-logging"
        " --module application:wsgi",
        "uwsgi",
        enable_in="import",
        others=1,
    ),
    "uwsgi, lazy, import": Server(
        f"{UWSGI} --lazy-apps --import runtime_metrics.auto", "uwsgi", enable_in="import"
    ),
    "uwsgi, shared import": Server(
        f"{UWSGI} --lazy-apps --shared-import runtime_metrics.auto", "uwsgi", enable_in="import", others=1
    ),
    "celery": Server("python tasks.py {socket}", "celery", others=2, service="tasks"),
    # A fork server that has loaded the application is no worker, and reports nothing.
    **{
        f"{pool}, {method}{preloaded and ', preloaded'}": Server(
            f"python pools.py {{socket}} {method} {pool} {preloaded}", others=1, service="pools"
        )
        for pool in ("Pool", "ProcessPoolExecutor")
        for method, preloaded in (
            ("fork", ""),
            ("spawn", ""),
            ("forkserver", ""),
            ("forkserver", "application"),
        )
    },
}


@also_at_standard("name", SERVERS, "uwsgi", "uwsgi, lazy", "uvicorn uvloop")
def test_every_process_reports_itself(name: str, tmp_path: Path) -> None:
    server = SERVERS[name]
    need(*server.needs.split())
    settings = application(tmp_path, server.enable_in)
    with serving(server.command, tmp_path, **settings) as service:
        service.until(lambda: all_have_reported(service, 2 + server.others))
        last = {report.pid: report for report in service.reports if "mem.rss" in report.values}
        assert service.stop() == 0
    workers = service.clients.answered.keys()
    assert len(workers) == 2
    pairs = {(report.pid, report.runtime_id) for report in service.reports}
    pids, identities = zip(*pairs, strict=True)
    assert len(set(pids)) == len(set(identities)) == len(pairs) == 2 + server.others
    assert {report.service for report in service.reports} == {server.service}
    sizes = {pid: report.values["mem.rss"] for pid, report in last.items()}
    true = {pid: report.resident for pid, report in last.items()}
    assert sizes == pytest.approx(true, rel=0.05)
    # The sizes differ enough to distinguish each worker.
    differences = [apart(sizes[worker], sizes[pid]) for worker in workers for pid in sizes if pid != worker]
    assert min(differences) > 0.1


def test_under_the_launcher_uwsgi_reports_only_with_its_import_option(tmp_path: Path) -> None:
    need("uwsgi")
    for option, reporting in (("", 0), ("--import runtime_metrics.auto", 3)):
        folder = tmp_path / str(reporting)
        folder.mkdir()
        settings = application(folder, "import") | {"PYTHONPATH": BOOTSTRAP}
        with serving(f"{UWSGI} {option}", folder, **settings) as service:
            service.until(lambda: len(service.clients.answered) == 2)
            service.until(lambda: not reporting or all_have_reported(service, reporting))  # noqa: B023
            assert service.stop() == 0
        assert len({report.pid for report in service.reports}) == reporting


@pytest.mark.parametrize("preload", ["", "--preload"])
# uvicorn resets connections when it reaches its limit, with us or without.
@pytest.mark.parametrize("worker", ["sync", "gthread", "gevent"])
def test_a_recycled_worker_reports_its_cpu_time_and_no_other(
    worker: str, preload: str, tmp_path: Path
) -> None:
    options, needs = GUNICORN_WORKERS[worker]
    need(*needs.split())
    options = f"--max-requests 5 --max-requests-jitter 0 {preload} {options}".replace(
        "application", "accounts"
    )
    accounts = tmp_path / "accounts"
    accounts.touch()
    settings = application(tmp_path) | {"ACCOUNTS": str(accounts), "DD_RUNTIME_METRICS_INTERVAL": "0.2"}
    with serving(f"{GUNICORN} {options}", tmp_path, **settings) as service:
        service.until(lambda: len(used(accounts)) >= 4)
        assert service.stop() == 0
    reported: defaultdict[int, float] = defaultdict(float)
    for report in service.reports:
        reported[report.pid] += report.values["cpu.time.user"] + report.values["cpu.time.sys"]
    expected = used(accounts)
    assert {pid: reported[pid] for pid in expected} == pytest.approx(expected, abs=0.01)


def used(accounts: Path) -> dict[int, float]:
    """The CPU time of each process that has ended, since metrics began."""
    lines = map(json.loads, accounts.read_text().splitlines())
    times = {(pid, what): seconds for pid, what, seconds in lines}
    return {pid: seconds - times[pid, "begin"] for (pid, what), seconds in times.items() if what == "end"}


LAST_SAMPLES = {
    "uvicorn": "uvicorn --uds {socket} --workers 2 --app-dir {examples} lifespan:application",
    "hypercorn": "hypercorn --bind unix:{socket} --workers 2 {examples}/lifespan.py:application",
    "granian": "granian --uds {socket} --workers 2 --interface asgi --working-dir {examples} lifespan:application",
    "celery": "python tasks.py {socket}",
}


@pytest.mark.parametrize("name", LAST_SAMPLES)
def test_a_worker_that_does_what_the_page_says_sends_one_last_sample(name: str, tmp_path: Path) -> None:
    need(name)
    settings = application(tmp_path) | {"DD_RUNTIME_METRICS_INTERVAL": "3600"}
    with serving(LAST_SAMPLES[name], tmp_path, **settings) as service:
        service.until(lambda: len(service.clients.answered) == 2)
        assert service.reports == []
        assert service.stop() == 0
    samples = Counter(report.pid for report in service.reports)
    assert [samples[worker] for worker in service.clients.answered] == [1, 1]


def application(folder: Path, enable_in: str = "application") -> dict[str, str]:
    """The variables that the application reads."""
    return {"ENABLE_IN": enable_in, "BALLASTS": str(folder / "ballasts"), "CELERY_FOLDER": str(folder)}


def all_have_reported(service: Service, number: int) -> bool:
    """Whether so many processes have reported twice, the two workers among them since their first answers."""
    answered = dict(service.clients.answered)
    reports = Counter(
        report.pid for report in list(service.reports) if report.at > answered.get(report.pid, 0)
    )
    return len(answered) == 2 and len(reports) >= number and min(reports.values()) >= 2


def apart(one: float, other: float) -> float:
    """The difference of two sizes, relative to the greater."""
    return abs(one - other) / max(one, other)
