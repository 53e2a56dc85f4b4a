"""Beside tracers: one identity with their spans, one source for each name, and nothing imported for them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from peers import PEERS
from receiving import NAMES
from serving import need

if TYPE_CHECKING:
    from collections.abc import Callable

    Told = list[dict[str, Any]]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the peers are installed on Linux")

PROGRAMS = Path(__file__).parent / "programs"


@pytest.fixture
def beside() -> Callable[..., Told]:
    """Runs a program that can import these distributions as well as ours."""

    def run(source: str, *distributions: str, **environment: str) -> Told:
        need(*distributions, among=PEERS)
        (packages,) = PEERS.glob("lib/python*/site-packages")
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(source)],
            # Behind ours, and without a tracer's own sender and receiver.
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


def test_without_a_tracer_none_is_imported_and_the_identity_is_ours(beside: Callable[..., Told]) -> None:
    (told,) = beside(
        """
        import sys
        from traced import *
        from runtime_metrics import RuntimeMetrics
        RuntimeMetrics.enable(flush_interval=1000)
        for _ in range(3):
            RuntimeMetrics.flush()
            RuntimeMetrics.snapshot()
        ids = {line.rpartition(":")[2] for line in arrived()}
        tell(found=[name for name in sys.modules if name.startswith(("ddtrace", "opentelemetry"))], ids=list(ids))
        """,
        "ddtrace",
        "opentelemetry-sdk",
    )
    assert told["found"] == []
    assert len(told["ids"]) == 1


def test_a_tracer_that_is_imported_late_gives_its_id_and_what_code_changes_in_it_is_followed(
    beside: Callable[..., Told],
) -> None:
    (told,) = beside(
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
        tell(own=own, late=late, changed=changed, theirs=get_runtime_id())
        """,
        "ddtrace",
        DD_SERVICE="web",
    )
    assert told["own"]["runtime-id"] != told["theirs"]
    assert told["late"] == told["own"] | {"runtime-id": told["theirs"]}
    renamed = {"service": "renamed", "env": "staging", "version": "7"}
    assert told["changed"] == told["late"] | renamed


def test_variables_that_a_program_sets_for_itself_are_followed(beside: Callable[..., Told]) -> None:
    (told,) = beside(
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
        tell(before=before, after=after)
        """
    )
    assert told["after"] == told["before"] | {"service": "later", "team": "core"}
    assert told["after"]["version"] == "1"


def test_a_forked_child_has_the_id_of_the_tracer_in_it(beside: Callable[..., Told]) -> None:
    told = beside(
        """
        from traced import *
        import ddtrace
        from ddtrace.internal.runtime import get_runtime_id
        from runtime_metrics import RuntimeMetrics
        RuntimeMetrics.enable(flush_interval=1000)
        RuntimeMetrics.flush()
        tell(ours=tags(arrived())["runtime-id"], theirs=get_runtime_id())
        if child := os.fork():
            os.waitpid(child, 0)
        else:
            RuntimeMetrics.flush()
            tell(ours=tags(arrived())["runtime-id"], theirs=get_runtime_id())
            os._exit(0)
        RuntimeMetrics.flush()
        tell(ours=tags(arrived())["runtime-id"], theirs=get_runtime_id())
        """,
        "ddtrace",
    )
    assert [process["ours"] for process in told] == [process["theirs"] for process in told]
    assert told[0] == told[2] != told[1]


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_opentelemetry_sdk_names_the_process_in_parent_and_child(
    beside: Callable[..., Told], when: str
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
    told = beside(
        f"""
        from traced import *
        from opentelemetry import trace
        {first}
        {second}
        def told():
            RuntimeMetrics.flush()
            resource = trace.get_tracer_provider().resource
            tell(ours=tags(arrived()), theirs=resource.attributes["service.instance.id"])
        told()
        if child := os.fork():
            os.waitpid(child, 0)
        else:
            told()
            os._exit(0)
        """,
        "opentelemetry-sdk",
    )
    assert len(told) == 2
    for process in told:
        ours = process["ours"]
        assert ours["runtime-id"] == process["theirs"]
        assert (ours["service"], ours["version"], ours["env"]) == ("sdk", "3", "prod")
    assert told[0]["theirs"] != told[1]["theirs"]


def test_what_an_sdk_does_not_know_is_not_taken_from_it(beside: Callable[..., Told]) -> None:
    (told,) = beside(
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
        tell(proxy=proxy, provider=tags(arrived()))
        """,
        "opentelemetry-sdk",
    )
    changed = {key for key in told["provider"] if told["provider"][key] != told["proxy"].get(key)}
    assert changed == {"runtime-id"}


BOTH = """
    from traced import *
    import logging, time
    said = []
    class Handler(logging.Handler):
        def emit(self, record):
            said.append(record.getMessage())
    logging.getLogger("runtime_metrics").addHandler(Handler())
    logging.getLogger("runtime_metrics").setLevel(logging.INFO)
    from ddtrace.runtime import RuntimeMetrics as Theirs
    from ddtrace.internal.runtime.runtime_metrics import RuntimeWorker
    from runtime_metrics import RuntimeMetrics
    RuntimeMetrics.enable(flush_interval=1000, service="ours")
    def ours():
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


def test_each_name_comes_from_one_of_the_two_and_ours_take_over_at_once(beside: Callable[..., Told]) -> None:
    (told,) = beside(
        f"""{BOTH}
    together = both()
    again = both()
    Theirs.disable()
    arrived()
    after = names(ours())
    tell(alone=names(alone), together=together, again=again, after=after, said=said)
        """,
        "ddtrace",
    )
    once = dict.fromkeys(NAMES, 1)
    assert told["alone"] == told["together"] == told["again"] == told["after"] == once
    assert told["said"] == [
        "ddtrace sends runtime metrics: 15 of the names are left to it",
        "ddtrace no longer sends runtime metrics: all names are sent here",
    ]


def test_ddtraces_worker_that_runs_before_us_is_respected_before_the_interpreter_has_answered(
    beside: Callable[..., Told],
) -> None:
    (told,) = beside(
        """
        from traced import *
        import ctypes
        from ddtrace.runtime import RuntimeMetrics as Theirs
        from runtime_metrics import RuntimeMetrics
        Theirs.enable()
        RuntimeMetrics.enable(flush_interval=0.1)
        # Some intervals, in which C code keeps the interpreter.
        ctypes.PyDLL(None).usleep(500_000)
        held = names(arrived())
        Theirs.disable()
        arrived()
        RuntimeMetrics.flush()
        tell(held=held, after=names(arrived()))
        """,
        "ddtrace",
    )
    assert told["held"] == {}
    assert told["after"].keys() == set(NAMES)


def test_by_force_ddtraces_are_disabled_and_all_names_are_ours(beside: Callable[..., Told]) -> None:
    (told,) = beside(
        f"""{BOTH}
    forced = names(ours())
    theirs_runs = Theirs._enabled
    again = names(ours())
    tell(forced=forced, again=again, theirs_runs=theirs_runs, said=said)
        """,
        "ddtrace",
        DD_RUNTIME_METRICS_FORCE="true",
    )
    # What ddtrace sends as it ends stands for the interval that ends then.
    assert told["forced"] == told["again"] == dict.fromkeys(NAMES, 1)
    assert told["theirs_runs"] is False
    assert told["said"] == [
        "ddtrace's runtime metrics were disabled (DD_RUNTIME_METRICS_FORCE): all names are sent here"
    ]


def test_a_look_leaves_ddtraces_alone_and_shows_what_is_left_to_us(beside: Callable[..., Told]) -> None:
    (told,) = beside(
        f"""{BOTH}
    seen = len(RuntimeMetrics.snapshot())
    theirs_runs = Theirs._enabled
    RuntimeMetrics.disable()
    tell(seen=seen, theirs_runs=theirs_runs, theirs_runs_on=Theirs._enabled)
        """,
        "ddtrace",
        DD_RUNTIME_METRICS_FORCE="true",
    )
    assert told == {"seen": 0, "theirs_runs": True, "theirs_runs_on": True}


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


def test_what_a_tracer_said_last_holds_while_it_fails(beside: Callable[..., Told]) -> None:
    (told,) = beside(
        f"""{FAKE}
    before = flush()
    package.config.failing = True
    failing = flush()
    package.config.failing = False
    del Config.service
    tell(before=before, failing=failing, without=flush())
        """
    )
    named = {"service": "theirs", "env": "prod", "runtime-id": "f" * 32}
    assert named.items() <= told["before"].items()
    assert told["failing"] == told["before"]
    # What a release of it does not have is looked for elsewhere.
    assert told["without"]["runtime-id"] == "f" * 32
    assert told["without"]["service"] != "theirs"


def test_a_tracer_that_does_not_answer_does_not_keep_the_program_from_its_end(
    beside: Callable[..., Told],
) -> None:
    told = beside(
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
    tell(asked=True)
        """
    )
    assert told == [{"asked": True}]


@pytest.mark.parametrize("gauges", [False, True])
def test_names_and_types_are_those_of_ddtrace(beside: Callable[..., Told], gauges: bool) -> None:
    features = {"DD_TRACE_EXPERIMENTAL_FEATURES_ENABLED": "DD_RUNTIME_METRICS_ENABLED"} if gauges else {}
    (told,) = beside(
        f"""{BOTH}
    tell(ours=types(alone), theirs=types(theirs()))
        """,
        "ddtrace",
        **features,
    )
    assert told["ours"] == told["theirs"] == dict.fromkeys(NAMES, "g" if gauges else "d")


# Values that one process has at one moment; the rest are ours to get right (see test_oracles.py).
ALIKE = {
    "mem.rss": 0.05,
    "thread_count": 0.0,
    "gc.count.gen2": 0.0,
}


def test_units_are_those_of_ddtrace(beside: Callable[..., Told]) -> None:
    (told,) = beside(
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
    tell(ours=values(ours()), theirs=them)
        """,
        "ddtrace",
    )
    ours, theirs = told["ours"], told["theirs"]
    for name, tolerance in ALIKE.items():
        assert abs(ours[name] - theirs[name]) <= tolerance * theirs[name] + 2, name
    # The same work was done for both: seconds, percent of a core, collections, nanoseconds.
    assert 0.25 < ours["cpu.time.user"] + ours["cpu.time.sys"] < 1
    assert 0.25 < theirs["cpu.time.user"] + theirs["cpu.time.sys"] < 3
    assert 20 < ours["cpu.percent"] < 250
    assert ours["gc.collections.gen2"] == 3
    assert theirs["gc.collections.gen2"] >= 3
    assert 0.05 < ours["gc.pause.time"] / theirs["gc.pause.time"] < 20


def test_the_look_for_tracers_is_quick(beside: Callable[..., Told]) -> None:
    (told,) = beside(
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
        tell(before=before, after=least())
        """,
        "ddtrace",
    )
    # What a look costs that finds a tracer; one that finds none is a part of every measure of a tick.
    assert told["after"] - told["before"] < 5
