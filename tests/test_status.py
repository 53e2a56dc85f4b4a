"""What `status()` returns as sending works, fails and recovers."""

from __future__ import annotations

import logging
import re
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from agents import Udp, UnixDatagrams, UnixStream
from catalogue_names import CATALOGUE, PERCENT_NAMES, PREFIX, TIMELESS_NAMES
from ports import DISCARD_URL
from receiving import named

from runtime_metrics import RuntimeMetrics, Status

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import RunProgram
    from receiving import Flushes

NOTHING: dict[str, Any] = {
    "since": None,
    "error": None,
    "address": None,
    "chosen_by": None,
    "peer": None,
    "transport": None,
    "metrics": 0,
    "packets_sent": 0,
    "bytes_sent": 0,
    "packets_dropped": 0,
    "bytes_dropped": 0,
    "left_to_ddtrace": [],
    "selected": {},
}


@pytest.fixture(autouse=True)
def disabled() -> Iterator[None]:
    """Metrics are disabled when a test ends."""
    yield
    RuntimeMetrics.disable()


def test_the_state_follows_what_becomes_of_each_flush(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Intervals of which some may be long enough for them.
    monkeypatch.setenv("DD_RUNTIME_METRICS_EXCLUDE", ",".join(PERCENT_NAMES))
    path = tmp_path / "dsd.socket"
    assert RuntimeMetrics.status() == {"state": "off", **NOTHING}
    states = []

    def record() -> Status:
        status = RuntimeMetrics.status()
        states.append(status["state"])
        return status

    with UnixDatagrams(path) as agent:
        RuntimeMetrics.enable(dogstatsd_url=agent.url)
        untried = record()
        assert RuntimeMetrics.flush()
        working = record()
    path.unlink()
    lost_from = time.time()
    assert not RuntimeMetrics.flush()
    lost_until = time.time()
    failing = record()
    assert not RuntimeMetrics.flush()
    still_failing = record()
    with UnixDatagrams(path) as agent:
        assert RuntimeMetrics.flush()
        again = record()
        RuntimeMetrics.disable()
    assert RuntimeMetrics.status() == {"state": "off", **NOTHING}

    assert states == ["untried", "working", "failing", "failing", "working"]
    assert untried["error"] is working["error"] is None
    # `since` is the start of the state, whenever it is read; two readings of a clock are compared.
    assert failing["since"] is not None
    assert lost_from - 0.01 <= failing["since"] <= lost_until + 0.01
    assert still_failing["since"] == failing["since"]
    assert again["since"] is not None
    assert again["since"] >= lost_until - 0.01
    error = (
        "No such file or directory (os error 2) (is the Agent running, and is its directory mounted here?)"
    )
    assert failing["error"] == still_failing["error"] == again["error"] == error
    assert {status["address"] for status in (untried, failing, again)} == {f"unixgram://{path}"}
    metrics = [status["metrics"] for status in (untried, working, failing, still_failing, again)]
    assert metrics == [flushes * len(TIMELESS_NAMES) for flushes in range(5)], (
        "each flush counts every row of the default level: the reading of each must have a value here"
    )
    assert (again["packets_sent"], again["packets_dropped"]) == (2, 2)


def test_what_is_refused_at_once_does_not_count_as_sent() -> None:
    RuntimeMetrics.enable(dogstatsd_url=DISCARD_URL)
    for flushes in (1, 2):
        assert not RuntimeMetrics.flush()
        status = RuntimeMetrics.status()
        assert (status["state"], status["packets_sent"], status["bytes_sent"]) == ("failing", 0, 0)
        assert status["packets_dropped"] >= flushes


def test_the_type_of_a_status_lists_its_keys() -> None:
    assert Status.__annotations__.keys() == RuntimeMetrics.status().keys()


def test_it_says_of_each_selected_metric_whether_it_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    # An alarm that is quiet, what is sent once a minute, and sources that are not there.
    monkeypatch.setenv("DD_RUNTIME_METRICS_INCLUDE", "gunicorn.worker.connections")
    monkeypatch.setenv("DD_RUNTIME_METRICS_EXCLUDE", "gc.*")
    names = [metric.name for metric in CATALOGUE if not metric.by_name and ".gc." not in metric.name]
    absent = {metric.name: metric.absent for metric in CATALOGUE}
    with Udp() as agent:
        RuntimeMetrics.enable(dogstatsd_url=agent.url, flush_interval=3600, level="detailed")
        selected = RuntimeMetrics.status()["selected"]
        assert selected == dict.fromkeys(
            [*names, "gunicorn.worker.connections"], "nothing has been flushed yet"
        )
        for flushes in (1, 2):
            agent.drain()
            agent.packets.clear()
            assert RuntimeMetrics.flush()
            agent.drain()
            sent = {line.split(":")[0] for packet in agent.packets for line in packet.decode().splitlines()}
            selected = RuntimeMetrics.status()["selected"]
            quiet = {name for name in selected if selected[name].startswith("nothing to report")}
            assert quiet.isdisjoint(sent)
            assert ("runtime.python.exceptions.uncaught" in quiet) == (flushes == 2)
            # It was sent with the first flush.
            sent.add("runtime.python.info")
            assert {name for name in selected if selected[name] == "sent"} == sent
            assert "runtime.python.mem.rss" in sent
            # The only reason that applies, and all there may be.
            assert selected["runtime.python.gil.reenabled"] == "this build of Python is not free-threaded"
            assert selected["gunicorn.worker.connections"] == absent["gunicorn.worker.connections"]


# The beginning of a program in which counting blocks takes as long as `cost` says, in seconds.
SLOW_READ = """
        import sys, time
        from runtime_metrics import RuntimeMetrics
        def slow(count=sys.getallocatedblocks):
            time.sleep(cost)
            return count()
        sys.getallocatedblocks = slow
"""


def test_it_tells_why_a_read_is_not_made_that_costs_too_much(
    run_program: RunProgram, flushes: Flushes
) -> None:
    printed = run_program(
        SLOW_READ
        + """
        for cost in (0.0003, 0.02):
            RuntimeMetrics.enable(flush_interval=3600, level="standard")
            for _ in range(2):
                RuntimeMetrics.flush()
                print(RuntimeMetrics.status()["selected"]["runtime.python.mem.python.blocks"])
            RuntimeMetrics.disable()
        """,
        DD_DOGSTATSD_URL=flushes.url,
    )
    first, second, *rest = printed.splitlines()
    assert first == rest[0] == "sent"
    assert re.fullmatch("not due for another [0-9]+ s, as the last read took so long", second)
    assert re.fullmatch("not due for another [0-9]+ s, as the last read took so long", rest[1])


def test_what_a_read_has_cost_a_process_does_not_count_for_its_child(
    run_program: RunProgram, flushes: Flushes
) -> None:
    printed = run_program(
        SLOW_READ
        + """
        import os
        def flush():
            RuntimeMetrics.flush()
            print(RuntimeMetrics.status()["selected"]["runtime.python.mem.python.blocks"], flush=True)
        RuntimeMetrics.enable(flush_interval=3600, level="standard")
        cost = 0.02
        flush()
        cost = 0
        if os.fork() == 0:
            flush()
            os._exit(0)
        os.wait()
        flush()
        """,
        DD_DOGSTATSD_URL=flushes.url,
    )
    parent, child, again = printed.splitlines()
    assert parent == child == "sent"
    assert again.startswith("not due for another ")


def test_in_a_function_it_tells_what_makes_no_sense_there(run_program: RunProgram, flushes: Flushes) -> None:
    printed = run_program(
        """
        from types import SimpleNamespace
        from runtime_metrics import RuntimeMetrics
        from runtime_metrics.aws_lambda import instrument
        states = []
        def handler(event, context):
            states.append(RuntimeMetrics.status()["selected"])
        handler = instrument(handler)
        for number in range(2):
            handler({}, SimpleNamespace(aws_request_id=str(number)))
        # Within an invocation, what became of the last one.
        assert states[1]["runtime.python.gc.count.gen0"] == "sent"
        print(*sorted(name for name in states[1] if states[1][name] == "not in AWS Lambda"))
        """,
        AWS_LAMBDA_FUNCTION_NAME="coffee",
        DD_DOGSTATSD_URL=flushes.url,
        DD_RUNTIME_METRICS_LEVEL="detailed",
    )
    left_out = {
        "Probe",
        "OwnCpu",
        "EventLoops",
        "Tasks",
        "Executors",
        "AcceptQueue",
        "LimitApproach",
        "OwnWork",
        "Growth",
        "LoopQueues",
    }
    expected = [metric.name for metric in CATALOGUE if left_out.intersection(metric.needs)]
    # Elsewhere, that the system does not have them comes first.
    assert printed.split() == sorted(expected) or sys.platform != "linux"
    sent = {PREFIX + name.partition("{")[0] for flush in flushes.rest() for name in flush.values}
    assert sent
    assert sent.isdisjoint(expected)


def test_it_names_the_receiver_and_the_setting_that_chose_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def destination() -> tuple[str | None, ...]:
        RuntimeMetrics.flush()
        status = RuntimeMetrics.status()
        RuntimeMetrics.disable()
        return status["address"], status["chosen_by"], status["peer"], status["transport"]

    with Udp() as udp, UnixStream(tmp_path / "stream") as stream, UnixDatagrams(tmp_path / "gram") as gram:
        peer = f"127.0.0.1:{udp.port}"
        RuntimeMetrics.enable(dogstatsd_url=f"localhost:{udp.port}")
        assert destination() == (f"udp://localhost:{udp.port}", "dogstatsd_url", peer, "udp")
        monkeypatch.setenv("DD_AGENT_HOST", "127.0.0.1")
        monkeypatch.setenv("DD_DOGSTATSD_PORT", str(udp.port))
        RuntimeMetrics.enable()
        assert destination() == (f"udp://{peer}", "DD_AGENT_HOST", peer, "udp")
        monkeypatch.setenv("DD_DOGSTATSD_URL", f"unix://{tmp_path}/gram")
        RuntimeMetrics.enable()
        assert destination() == (f"unix://{tmp_path}/gram", "DD_DOGSTATSD_URL", None, "uds")
        monkeypatch.setenv("DD_DOGSTATSD_URL", f"unix://{tmp_path}/stream")
        RuntimeMetrics.enable()
        assert destination() == (f"unix://{tmp_path}/stream", "DD_DOGSTATSD_URL", None, "uds-stream")
        for agent in (udp, stream, gram):
            agent.drain()
            assert agent.packets != []


@pytest.mark.parametrize("value", ["true", "1", "True"])
def test_a_variable_can_disable_sending(
    value: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DD_DOGSTATSD_DISABLE", value)
    with Udp() as agent:
        with caplog.at_level(logging.DEBUG, "runtime_metrics"):
            RuntimeMetrics.enable(dogstatsd_url=agent.url, flush_interval=0.01)
        assert RuntimeMetrics._enabled is False
        assert RuntimeMetrics.flush() is False
        assert RuntimeMetrics.status() == {"state": "disabled", **NOTHING}
        RuntimeMetrics.disable()
        agent.drain()
        assert agent.packets == []
        # The receiver was listening all the time.
        monkeypatch.delenv("DD_DOGSTATSD_DISABLE")
        RuntimeMetrics.enable(dogstatsd_url=agent.url)
        assert RuntimeMetrics.flush()
        agent.drain()
        assert agent.packets != []
    assert [(record.name, record.levelname) for record in caplog.records] == [("runtime_metrics", "INFO")]
    assert caplog.messages == [named("runtime metrics are not collected: DD_DOGSTATSD_DISABLE is set")]


def test_a_wrong_argument_raises_even_where_sending_is_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DD_DOGSTATSD_DISABLE", "true")
    with pytest.raises(ValueError, match="dogstatsd_url="):
        RuntimeMetrics.enable(dogstatsd_url="ftp://x")


def test_a_value_that_is_no_boolean_disables_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DD_DOGSTATSD_DISABLE", "yes")
    with Udp() as agent:
        RuntimeMetrics.enable(dogstatsd_url=agent.url)
        assert RuntimeMetrics.status()["state"] == "untried"
        RuntimeMetrics.disable()
        agent.drain()
        assert agent.packets != []
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert caplog.messages[0].startswith(named('DD_DOGSTATSD_DISABLE="yes": expected '))
