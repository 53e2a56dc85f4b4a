"""Beside tracers: one identity with their spans, one sender of each name, and no import on their account."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from catalogue_names import NAMES, PREFIX, is_complete
from peers import PEERS
from serving import need

if TYPE_CHECKING:
    from collections.abc import Callable

    Reports = list[dict[str, Any]]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the peers are installed on Linux")

PROGRAMS = Path(__file__).parent / "programs"


@pytest.fixture
def beside() -> Callable[..., Reports]:
    """Runs a program that can import these distributions besides ours."""

    def run(source: str, *distributions: str, **environment: str) -> Reports:
        need(*distributions, among=PEERS)
        (packages,) = PEERS.glob("lib/python*/site-packages")
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(source)],
            # They follow ours on the search path; a tracer must not send or receive anything of its own.
            env=os.environ
            | {
                "PYTHONPATH": f"{PROGRAMS}{os.pathsep}{packages}",
                "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
            }
            | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


def test_without_a_tracer_none_is_imported_and_the_identity_is_ours(beside: Callable[..., Reports]) -> None:
    (report,) = beside(
        """
        import sys
        from traced import *
        from runtime_metrics import RuntimeMetrics
        RuntimeMetrics.enable(flush_interval=1000)
        for _ in range(3):
            RuntimeMetrics.flush()
            RuntimeMetrics.snapshot()
        ids = {line.rpartition(":")[2] for line in arrived()}
        report(found=[name for name in sys.modules if name.startswith(("ddtrace", "opentelemetry"))], ids=list(ids))
        """,
        "ddtrace",
        "opentelemetry-sdk",
    )
    assert report["found"] == []
    assert len(report["ids"]) == 1


def test_a_tracer_imported_late_gives_its_id_and_changes_to_its_settings_are_followed(
    beside: Callable[..., Reports],
) -> None:
    (report,) = beside(
        """
        from traced import *
        from runtime_metrics import RuntimeMetrics
        RuntimeMetrics.enable(flush_interval=1000)
        def flush():
            assert RuntimeMetrics.flush()
            return tags(arrived())
        own = flush()
        import ddtrace
        from ddtrace.internal.runtime import get_runtime_id
        late = flush()
        ddtrace.config.service, ddtrace.config.env, ddtrace.config.version = "renamed", "staging", "7"
        changed = flush()
        report(own=own, late=late, changed=changed, theirs=get_runtime_id())
        """,
        "ddtrace",
        DD_SERVICE="web",
    )
    assert report["own"]["runtime-id"] != report["theirs"]
    assert report["late"] == report["own"] | {"runtime-id": report["theirs"]}
    renamed = {"service": "renamed", "env": "staging", "version": "7"}
    assert report["changed"] == report["late"] | renamed


def test_variables_that_a_program_sets_for_itself_are_followed(beside: Callable[..., Reports]) -> None:
    (report,) = beside(
        """
        from traced import *
        from runtime_metrics import RuntimeMetrics
        RuntimeMetrics.enable(flush_interval=1000, version="1")
        RuntimeMetrics.flush()
        before = tags(arrived())
        os.environ["DD_SERVICE"] = "later"
        os.environ["DD_TAGS"] = "team:core,version:9"
        RuntimeMetrics.flush()
        after = tags(arrived())
        report(before=before, after=after)
        """
    )
    assert report["after"] == report["before"] | {"service": "later", "team": "core"}
    assert report["after"]["version"] == "1"


def test_a_forked_child_has_the_id_of_the_tracer_in_it(beside: Callable[..., Reports]) -> None:
    reports = beside(
        """
        from traced import *
        import ddtrace
        from ddtrace.internal.runtime import get_runtime_id
        from runtime_metrics import RuntimeMetrics
        RuntimeMetrics.enable(flush_interval=1000)
        RuntimeMetrics.flush()
        report(ours=tags(arrived())["runtime-id"], theirs=get_runtime_id())
        if child := os.fork():
            os.waitpid(child, 0)
        else:
            RuntimeMetrics.flush()
            report(ours=tags(arrived())["runtime-id"], theirs=get_runtime_id())
            os._exit(0)
        RuntimeMetrics.flush()
        report(ours=tags(arrived())["runtime-id"], theirs=get_runtime_id())
        """,
        "ddtrace",
    )
    assert [process["ours"] for process in reports] == [process["theirs"] for process in reports]
    assert reports[0] == reports[2] != reports[1]


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_opentelemetry_sdk_names_the_process_in_parent_and_child(
    beside: Callable[..., Reports], when: str
) -> None:
    set_up = """
        from opentelemetry import trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        named = {"service.name": "sdk", "service.version": "3", "deployment.environment.name": "prod"}
        trace.set_tracer_provider(TracerProvider(resource=Resource.create(named)))
        """
    enable = """
        from runtime_metrics import RuntimeMetrics
        RuntimeMetrics.enable(flush_interval=1000)
        """
    first, second = (set_up, enable) if when == "before" else (enable, set_up)
    reports = beside(
        f"""
        from traced import *
        from opentelemetry import trace
        {first}
        {second}
        def flush_and_report():
            RuntimeMetrics.flush()
            resource = trace.get_tracer_provider().resource
            report(ours=tags(arrived()), theirs=resource.attributes["service.instance.id"])
        flush_and_report()
        if child := os.fork():
            os.waitpid(child, 0)
        else:
            flush_and_report()
            os._exit(0)
        """,
        "opentelemetry-sdk",
    )
    assert len(reports) == 2
    for process in reports:
        ours = process["ours"]
        assert ours["runtime-id"] == process["theirs"]
        assert (ours["service"], ours["version"], ours["env"]) == ("sdk", "3", "prod")
    assert reports[0]["theirs"] != reports[1]["theirs"]


def test_what_an_sdk_does_not_know_is_not_taken_from_it(beside: Callable[..., Reports]) -> None:
    (report,) = beside(
        """
        from traced import *
        from opentelemetry import trace
        from runtime_metrics import RuntimeMetrics
        RuntimeMetrics.enable(flush_interval=1000, service="ours")
        RuntimeMetrics.flush()
        proxy = tags(arrived())
        from opentelemetry.sdk.trace import TracerProvider
        trace.set_tracer_provider(TracerProvider())
        RuntimeMetrics.flush()
        report(proxy=proxy, provider=tags(arrived()))
        """,
        "opentelemetry-sdk",
    )
    changed = {key for key in report["provider"] if report["provider"][key] != report["proxy"].get(key)}
    assert changed == {"runtime-id"}


BOTH = """
    from traced import *
    import logging, time
    logged = []
    class Handler(logging.Handler):
        def emit(self, record):
            if "ddtrace" in record.getMessage():
                logged.append(record.getMessage().partition("]: ")[2])
    logging.getLogger("runtime_metrics").addHandler(Handler())
    logging.getLogger("runtime_metrics").setLevel(logging.INFO)
    from ddtrace.runtime import RuntimeMetrics as Theirs
    from ddtrace.internal.runtime.constants import DEFAULT_RUNTIME_METRICS
    from ddtrace.internal.runtime.runtime_metrics import RuntimeWorker
    from runtime_metrics import RuntimeMetrics
    RuntimeMetrics.enable(flush_interval=1000, service="ours")
    def ours():
        # Long enough for a percentage.
        time.sleep(0.06)
        RuntimeMetrics.flush()
        return arrived()
    def theirs():
        RuntimeWorker._instance.flush()
        return arrived()
    def both():
        return names(theirs() + ours())
    alone = ours()
    Theirs.enable()
    """


def test_each_name_is_sent_by_one_library_and_we_take_over_at_once(beside: Callable[..., Reports]) -> None:
    (report,) = beside(
        f"""{BOTH}
    together = both()
    again = both()
    Theirs.disable()
    arrived()
    after = names(ours())
    left = len(DEFAULT_RUNTIME_METRICS)
    logged[0] = logged[0].partition(",")[0]
    report(alone=names(alone), together=together, again=again, after=after, logged=logged, left=left)
        """,
        "ddtrace",
    )
    once = dict.fromkeys(NAMES, 1)
    assert report["alone"] == report["together"] == report["again"] == report["after"] == once
    assert report["logged"] == [
        f"ddtrace sends runtime metrics itself: {report['left']} of {len(NAMES)} names are left to it",
        "ddtrace no longer sends runtime metrics: all names are sent here",
    ]


def test_a_running_worker_of_ddtrace_is_respected_before_the_interpreter_answers(
    beside: Callable[..., Reports],
) -> None:
    (report,) = beside(
        """
        from traced import *
        import ctypes
        from ddtrace.internal.runtime.constants import DEFAULT_RUNTIME_METRICS
        from ddtrace.runtime import RuntimeMetrics as Theirs
        from runtime_metrics import RuntimeMetrics
        Theirs.enable()
        RuntimeMetrics.enable(flush_interval=0.1)
        # For several intervals, C code holds the interpreter.
        ctypes.PyDLL(None).usleep(500_000)
        held = names(arrived())
        Theirs.disable()
        arrived()
        RuntimeMetrics.flush()
        left = [name for name in held if PREFIX + name in DEFAULT_RUNTIME_METRICS]
        report(left=left, after=names(arrived()))
        """,
        "ddtrace",
    )
    assert report["left"] == []
    assert is_complete(report["after"])


def test_with_force_ddtraces_metrics_are_disabled_and_all_names_are_ours(
    beside: Callable[..., Reports],
) -> None:
    (report,) = beside(
        f"""{BOTH}
    forced = names(ours())
    theirs_runs = Theirs._enabled
    again = names(ours())
    report(forced=forced, again=again, theirs_runs=theirs_runs, logged=logged)
        """,
        "ddtrace",
        DD_RUNTIME_METRICS_FORCE="true",
    )
    # The last sample of ddtrace takes the place of ours for that interval.
    assert report["forced"] == report["again"] == dict.fromkeys(NAMES, 1)
    assert report["theirs_runs"] is False
    assert report["logged"] == [
        "ddtrace's runtime metrics were disabled (DD_RUNTIME_METRICS_FORCE): all names are sent here"
    ]


def test_a_snapshot_does_not_disable_ddtraces_metrics_and_omits_their_names(
    beside: Callable[..., Reports],
) -> None:
    (report,) = beside(
        f"""{BOTH}
    seen = [name for name in RuntimeMetrics.snapshot() if name in DEFAULT_RUNTIME_METRICS]
    theirs_runs = Theirs._enabled
    RuntimeMetrics.disable()
    report(seen=seen, theirs_runs=theirs_runs, theirs_still_runs=Theirs._enabled)
        """,
        "ddtrace",
        DD_RUNTIME_METRICS_FORCE="true",
    )
    assert report == {"seen": [], "theirs_runs": True, "theirs_still_runs": True}


FAKE = """
    import sys
    from traced import *
    from types import ModuleType
    fake = ModuleType("ddtrace.internal.runtime")
    fake.get_runtime_id = lambda: "f" * 32
    class Config:
        env, failing = "prod", False
        @property
        def service(self):
            if self.failing:
                raise RuntimeError("not now")
            return "theirs"
    package = ModuleType("ddtrace")
    package.config = Config()
    sys.modules |= {"ddtrace": package, "ddtrace.internal.runtime": fake}
    from runtime_metrics import RuntimeMetrics
    RuntimeMetrics.enable(flush_interval=1000)
    def flush():
        assert RuntimeMetrics.flush()
        return tags(arrived())
    """


def test_the_last_names_of_a_tracer_are_kept_while_it_fails(beside: Callable[..., Reports]) -> None:
    (report,) = beside(
        f"""{FAKE}
    before = flush()
    package.config.failing = True
    failing = flush()
    package.config.failing = False
    del Config.service
    report(before=before, failing=failing, without=flush())
        """
    )
    named = {"service": "theirs", "env": "prod", "runtime-id": "f" * 32}
    assert named.items() <= report["before"].items()
    assert report["failing"] == report["before"]
    # What this release of the tracer does not have comes from elsewhere.
    assert report["without"]["runtime-id"] == "f" * 32
    assert report["without"]["service"] != "theirs"


def test_a_tracer_that_does_not_answer_does_not_block_the_exit(
    beside: Callable[..., Reports],
) -> None:
    reports = beside(
        f"""{FAKE}
    import threading
    RuntimeMetrics.disable()
    held, main = threading.Lock(), threading.get_ident()
    held.acquire()
    asked = threading.Event()
    def get_runtime_id():
        if threading.get_ident() != main:
            asked.set()
            held.acquire()
        return "f" * 32
    fake.get_runtime_id = get_runtime_id
    RuntimeMetrics.enable(flush_interval=0.1)
    assert asked.wait(20)
    report(asked=True)
        """
    )
    assert reports == [{"asked": True}]


@pytest.mark.parametrize("gauges", [False, True])
def test_names_and_types_are_those_of_ddtrace(beside: Callable[..., Reports], gauges: bool) -> None:
    features = {"DD_TRACE_EXPERIMENTAL_FEATURES_ENABLED": "DD_RUNTIME_METRICS_ENABLED"} if gauges else {}
    (report,) = beside(
        f"""{BOTH}
    report(ours=types(alone), theirs=types(theirs()), ddtrace=sorted(DEFAULT_RUNTIME_METRICS))
        """,
        "ddtrace",
        **features,
    )
    assert report["theirs"] != {}
    assert report["ours"] == dict.fromkeys(NAMES, "g" if gauges else "d")
    assert {PREFIX + name for name in report["theirs"]} == set(report["ddtrace"])
    assert report["theirs"].items() <= report["ours"].items()


# Values of one moment, which must agree; test_oracles.py checks the others.
ALIKE = {
    "mem.rss": 0.05,
    "thread_count": 0.0,
    "gc.count.gen2": 0.0,
}


@pytest.mark.measures
def test_units_are_those_of_ddtrace(beside: Callable[..., Reports]) -> None:
    (report,) = beside(
        f"""{BOTH}
    def values(lines):
        named = (line.partition("|")[0].rpartition(":") for line in lines)
        return {{name.removeprefix(PREFIX): float(value) for name, _, value in named}}
    Theirs.disable()
    arrived()
    Theirs.enable()
    import gc
    for _ in range(3):
        gc.collect()
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    them = values(theirs())
    RuntimeMetrics.disable()
    RuntimeMetrics.enable(flush_interval=1000)
    Theirs.disable()
    arrived()
    RuntimeMetrics.flush()
    arrived()
    for _ in range(3):
        gc.collect()
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    report(ours=values(ours()), theirs=them)
        """,
        "ddtrace",
    )
    ours, theirs = report["ours"], report["theirs"]
    for name, tolerance in ALIKE.items():
        assert abs(ours[name] - theirs[name]) <= tolerance * theirs[name] + 2, name
    # Both measured the same work: seconds, percent of a core, collections, nanoseconds.
    assert 0.25 < ours["cpu.time.user"] + ours["cpu.time.sys"] < 1
    assert 0.25 < theirs["cpu.time.user"] + theirs["cpu.time.sys"] < 3
    assert 20 < ours["cpu.percent"] < 250
    assert ours["gc.collections.gen2"] == 3
    assert theirs["gc.collections.gen2"] >= 3
    assert 0.05 < ours["gc.pause.time"] / theirs["gc.pause.time"] < 20


@pytest.mark.measures
def test_finding_tracers_takes_less_than_five_microseconds(beside: Callable[..., Reports]) -> None:
    (report,) = beside(
        """
        from traced import *
        import time
        from runtime_metrics import RuntimeMetrics
        RuntimeMetrics.enable(flush_interval=1000, tags={"a": "b"})
        def microseconds(what, number=400):
            began = time.thread_time_ns()
            for _ in range(number):
                what()
            return (time.thread_time_ns() - began) / number / 1000
        def least():
            return min(microseconds(RuntimeMetrics.snapshot) for _ in range(20))
        before = least()
        import ddtrace, ddtrace.internal.runtime
        RuntimeMetrics.flush()
        report(before=before, after=least())
        """,
        "ddtrace",
    )
    # The cost of reading the names of a tracer; the search without one is a part of every tick.
    assert report["after"] - report["before"] < 5
