"""What `status()` returns as sending works, fails and recovers."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import pytest
from agents import Udp, UnixDatagrams, UnixStream
from catalogue_names import CATALOGUE, PERCENT_NAMES, TIMELESS_NAMES
from ports import DISCARD_URL
from receiving import named

from runtime_metrics import RuntimeMetrics, Status

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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
    # An alarm without a limit of memory, one that is quiet, what is sent once a minute, and a source that is not there.
    monkeypatch.setenv("DD_RUNTIME_METRICS_INCLUDE", "gunicorn.worker.connections")
    monkeypatch.setenv("DD_RUNTIME_METRICS_EXCLUDE", "gc.*")
    names = [metric.name for metric in CATALOGUE if not metric.by_name and ".gc." not in metric.name]
    absent = {metric.name: metric.absent for metric in CATALOGUE}
    with Udp() as agent:
        RuntimeMetrics.enable(dogstatsd_url=agent.url, flush_interval=3600, level="standard")
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
            states = dict.fromkeys(sent, "sent")
            quiet = {name for name in selected if selected[name].startswith("nothing to report")}
            assert quiet.isdisjoint(sent)
            assert ("runtime.python.exceptions.uncaught" in quiet) == (flushes == 2)
            # It was sent with the first flush.
            states["runtime.python.info"] = "sent"
            expected = {name: states.get(name, absent[name]) for name in selected if name not in quiet}
            assert {name: state for name, state in selected.items() if name not in quiet} == expected
            assert selected["gunicorn.worker.connections"] == absent["gunicorn.worker.connections"]
            assert selected["runtime.python.mem.rss"] == "sent"
            assert selected["runtime.python.gil.reenabled"] == absent["runtime.python.gil.reenabled"]


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
