"""The interface: what each call accepts, does and refuses."""

from __future__ import annotations

import logging
import os
import re
import time
import warnings
from typing import TYPE_CHECKING, Any

import pytest
from catalogue_names import assert_complete
from ports import DISCARD_URL
from receiving import Flushes, named

from runtime_metrics import RuntimeMetrics, _core

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from conftest import RunProgram

TAIL = ["lang:python", "lang_interpreter:CPython"]


@pytest.mark.measures
def test_metrics_arrive_at_every_interval(flushes: Flushes) -> None:
    RuntimeMetrics.enable(dogstatsd_url=flushes.url, flush_interval=0.3)
    start = time.monotonic()
    arrived = [flushes.next() for _ in range(4)]
    for number, flush in enumerate(arrived, start=1):
        assert_complete(flush.values)
        assert flush.type == "d"
        assert flush.at - start == pytest.approx(0.3 * number, abs=0.25)


def test_enabled_is_a_class_level_bool(flushes: Flushes) -> None:
    assert RuntimeMetrics._enabled is False
    RuntimeMetrics.enable(dogstatsd_url=flushes.url)
    assert RuntimeMetrics._enabled is True
    RuntimeMetrics.disable()
    assert RuntimeMetrics._enabled is False


def test_disable_sends_a_last_sample_once(flushes: Flushes) -> None:
    RuntimeMetrics.enable(dogstatsd_url=flushes.url)
    RuntimeMetrics.disable()
    RuntimeMetrics.disable()
    (last,) = flushes.rest()
    assert_complete(last.values)


def test_without_enable_every_call_does_nothing() -> None:
    assert RuntimeMetrics.flush() is False
    assert RuntimeMetrics.snapshot() == {}
    RuntimeMetrics.disable()


def test_flush_returns_whether_everything_was_sent(flushes: Flushes, tmp_path: Path) -> None:
    RuntimeMetrics.enable(dogstatsd_url=flushes.url)
    assert RuntimeMetrics.flush() is True
    RuntimeMetrics.disable()
    RuntimeMetrics.enable(dogstatsd_url=f"unix://{tmp_path}/missing.socket")
    assert RuntimeMetrics.flush() is False


def test_enable_again_without_arguments_does_nothing(
    flushes: Flushes, caplog: pytest.LogCaptureFixture
) -> None:
    RuntimeMetrics.enable(dogstatsd_url=flushes.url, service="first")
    RuntimeMetrics.enable()
    assert RuntimeMetrics.flush()
    assert flushes.next().tag("service") == "first"
    assert caplog.records == []


def test_enable_again_with_arguments_names_what_it_ignores(
    flushes: Flushes, caplog: pytest.LogCaptureFixture
) -> None:
    RuntimeMetrics.enable(dogstatsd_url=flushes.url, service="first")
    RuntimeMetrics.enable(service="second", tags=["a:b"])
    assert RuntimeMetrics.flush()
    assert flushes.next().tag("service") == "first"
    assert [(record.name, record.levelname) for record in caplog.records] == [("runtime_metrics", "WARNING")]
    assert caplog.messages == [named("RuntimeMetrics is already enabled: enable() ignored service, tags")]


@pytest.mark.parametrize(
    "again",
    [
        {"flush_interval": 60.0},
        {"tags": ["team:a", "b:c"]},
        {"tags": (tag for tag in ["team:a", "b:c"])},
        {"level": "default", "wire_type": "distribution"},
        {"service": "web", "env": "prod", "version": "2"},
    ],
    ids=["float", "list", "iterator", "defaults", "names"],
)
def test_enable_again_with_arguments_in_effect_does_nothing(
    flushes: Flushes, caplog: pytest.LogCaptureFixture, again: dict[str, Any]
) -> None:
    first: dict[str, Any] = {"flush_interval": 60, "service": "web", "env": "prod", "version": "2"}
    RuntimeMetrics.enable(dogstatsd_url=flushes.url, tags={"team": "a", "b": "c"}, **first)
    RuntimeMetrics.enable(dogstatsd_url=flushes.url, **(first | again))
    assert RuntimeMetrics.flush()
    assert list(flushes.next().tags[:5]) == ["service:web", "env:prod", "version:2", "team:a", "b:c"]
    assert caplog.records == []


def test_enable_again_names_only_the_arguments_that_differ(
    flushes: Flushes, caplog: pytest.LogCaptureFixture
) -> None:
    RuntimeMetrics.enable(dogstatsd_url=flushes.url, flush_interval=60, env="prod", tags={"a": "b", "c": "d"})
    RuntimeMetrics.enable(
        dogstatsd_url=DISCARD_URL, flush_interval=61, env="prod", tags={"a": "b"}, wire_type="gauge"
    )
    RuntimeMetrics.enable(env="prod", version="1", tags={"c": "d", "a": "b"})
    ignored = ["dogstatsd_url, flush_interval, tags, wire_type", "version"]
    assert caplog.messages == [
        named(f"RuntimeMetrics is already enabled: enable() ignored {names}") for names in ignored
    ]


def test_an_argument_that_equals_its_variable_is_in_effect(
    flushes: Flushes, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {
        "DD_DOGSTATSD_URL": flushes.url,
        "DD_RUNTIME_METRICS_INTERVAL": "60",
        "DD_SERVICE": "web",
        "DD_TAGS": "team:a,b:c",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    RuntimeMetrics.enable()
    RuntimeMetrics.enable(dogstatsd_url=flushes.url, flush_interval=60, service="web", tags=["team:a", "b:c"])
    assert caplog.records == []
    RuntimeMetrics.enable(service="shop", tags=["team:a"])
    assert caplog.messages == [named("RuntimeMetrics is already enabled: enable() ignored service")]


def test_arguments_after_an_automatic_start_are_applied(
    flushes: Flushes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import gc

    monkeypatch.setenv("DD_DOGSTATSD_URL", flushes.url)
    _core.enable_automatically()
    assert RuntimeMetrics.flush()
    before = flushes.next()
    gc.collect()
    RuntimeMetrics.enable()
    RuntimeMetrics.enable(flush_interval=0.2, service="named", wire_type="gauge")
    after = flushes.next()
    assert (after.tag("service"), after.type) == ("named", "g")
    assert after.tag("runtime-id") == before.tag("runtime-id")
    assert after["gc.collections.gen2"] == 1, "the baseline is the one of before"
    assert caplog.records == []
    RuntimeMetrics.enable(service="again")
    assert caplog.messages == [named("RuntimeMetrics is already enabled: enable() ignored service")]


def test_the_tracer_is_deprecated_and_ignored(flushes: Flushes) -> None:
    with pytest.warns(DeprecationWarning, match="'tracer' is deprecated"):
        RuntimeMetrics.enable(object(), flushes.url, 3600)
    assert RuntimeMetrics.flush()
    assert_complete(flushes.next().values)


def test_an_address_as_the_first_argument_is_refused(flushes: Flushes) -> None:
    with pytest.raises(TypeError, match="expected dogstatsd_url='udp://"):
        RuntimeMetrics.enable(flushes.url)
    assert RuntimeMetrics._enabled is False


def test_tags_are_in_order_and_the_arguments_win(flushes: Flushes, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "DD_SERVICE": "web",
        "DD_ENV": "prod",
        "DD_VERSION": "1",
        "DD_TAGS": "team:a,x:y",
    }.items():
        monkeypatch.setenv(name, value)
    RuntimeMetrics.enable(dogstatsd_url=flushes.url, version="2", tags={"team": "b"})
    assert RuntimeMetrics.flush()
    tags = flushes.next().tags
    assert list(tags[:7]) == ["service:web", "env:prod", "version:2", "team:b", "x:y", *TAIL]
    assert len(tags) == 9


def test_the_runtime_id_does_not_change_while_the_process_runs(flushes: Flushes) -> None:
    ids = []
    for _ in range(2):
        RuntimeMetrics.enable(dogstatsd_url=flushes.url)
        RuntimeMetrics.disable()
        ids.append(flushes.next().tag("runtime-id"))
    assert ids[0] == ids[1]
    assert len(ids[0]) == 32
    assert int(ids[0], 16)


@pytest.mark.parametrize(
    "tags",
    [{"a": "b", "c": "d:e"}, ["a:b", "c:d:e"], (item for item in ("a:b", "c:d:e")), ("a:b", "c:d:e")],
    ids=["mapping", "list", "generator", "tuple"],
)
def test_tags_may_be_a_mapping_or_any_iterable(flushes: Flushes, tags: Any) -> None:
    RuntimeMetrics.enable(dogstatsd_url=flushes.url, service="s", tags=tags)
    assert RuntimeMetrics.flush()
    assert list(flushes.next().tags[:3]) == ["service:s", "a:b", "c:d:e"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"dogstatsd_url": "ftp://x"}, ValueError, 'dogstatsd_url="ftp://x": expected udp://host'),
        ({"dogstatsd_url": ""}, ValueError, 'dogstatsd_url="": expected udp://host'),
        ({"dogstatsd_url": 8125}, TypeError, "dogstatsd_url=8125: expected a str"),
        (
            {"dogstatsd_url": "udp://agent:99999"},
            ValueError,
            'dogstatsd_url="udp://agent:99999": expected a port from 1 to 65535',
        ),
        (
            {"dogstatsd_url": f"unix:///{'x' * 107}"},
            ValueError,
            f'dogstatsd_url="unix:///{"x" * 107}": expected a path of at most 107 bytes',
        ),
        (
            {"dogstatsd_url": "udp://::1:8125"},
            ValueError,
            'dogstatsd_url="udp://::1:8125": expected an IPv6 address in brackets',
        ),
        (
            {"dogstatsd_url": "unix://d.sock"},
            ValueError,
            'dogstatsd_url="unix://d.sock": expected a path that begins with /',
        ),
        (
            {"tracer": "udp://x:1"},
            TypeError,
            "tracer='udp://x:1': expected dogstatsd_url='udp://x:1'; the first argument is the deprecated tracer",
        ),
        ({"tracer": 5}, TypeError, "tracer=5: expected flush_interval=5; the first argument"),
        (
            {"flush_interval": 0},
            ValueError,
            "flush_interval=0.0: expected a number of seconds from 0.01 to 86400",
        ),
        ({"flush_interval": -1}, ValueError, "flush_interval=-1.0: expected a number of seconds"),
        ({"flush_interval": 0.009}, ValueError, "flush_interval=0.009: expected a number of seconds"),
        ({"flush_interval": 86400.1}, ValueError, "flush_interval=86400.1: expected a number of seconds"),
        ({"flush_interval": float("nan")}, ValueError, "flush_interval=NaN: expected a number of seconds"),
        ({"flush_interval": float("inf")}, ValueError, "flush_interval=inf: expected a number of seconds"),
        ({"flush_interval": "ten"}, TypeError, "flush_interval='ten': expected a number of seconds"),
        ({"level": "everything"}, ValueError, 'level="everything": expected default, standard or detailed'),
        ({"level": 1}, TypeError, "level=1: expected a str"),
        ({"wire_type": "count"}, ValueError, 'wire_type="count": expected distribution or gauge'),
        ({"service": b"web"}, TypeError, "service=b'web': expected a str"),
        ({"env": 1}, TypeError, "env=1: expected a str"),
        ({"version": 1.5}, TypeError, "version=1.5: expected a str"),
        ({"tags": "a:b"}, TypeError, "tags='a:b': expected a mapping of str to str, or an iterable of"),
        ({"tags": b"a:b"}, TypeError, "tags=b'a:b': expected a mapping"),
        ({"tags": ["a:b", 1]}, TypeError, 'tags[1]=1: expected a "key:value" string'),
        ({"tags": [("a", "b")]}, TypeError, "tags[0]=('a', 'b'): expected a \"key:value\" string"),
        ({"tags": {"n": 1}}, TypeError, "tags['n']=1: expected a str"),
        ({"tags": {1: "a"}}, TypeError, "a key of tags=1: expected a str"),
        ({"tags": 1}, TypeError, "tags=1: expected a mapping"),
        ({"tags": dict}, TypeError, "tags=<class 'dict'>: expected a mapping"),
    ],
)
def test_a_wrong_argument_raises_and_nothing_starts(
    arguments: Mapping[str, Any], error: type[Exception], message: str
) -> None:
    import threading

    before = threading.active_count()
    with pytest.raises(error) as caught:
        RuntimeMetrics.enable(**arguments)
    assert str(caught.value).startswith(message)
    assert RuntimeMetrics._enabled is False
    assert threading.active_count() == before


def test_an_exception_of_the_iterable_of_tags_reaches_the_caller() -> None:
    def failing() -> Any:
        yield "a:b"
        raise LookupError("its own")

    with pytest.raises(LookupError, match="its own"):
        RuntimeMetrics.enable(tags=failing())
    assert RuntimeMetrics._enabled is False


def test_a_wrong_variable_is_one_warning_and_the_default(run_program: RunProgram) -> None:
    printed = run_program(
        """
        import logging, sys
        logging.basicConfig(stream=sys.stdout, format="%(name)s %(levelname)s %(message)s")
        from runtime_metrics import RuntimeMetrics
        for _ in range(2):
            RuntimeMetrics.enable()
            RuntimeMetrics.enable()
            assert RuntimeMetrics._enabled
            RuntimeMetrics.disable()
        """,
        DD_RUNTIME_METRICS_INTERVAL="nan",
        DD_RUNTIME_METRICS_LEVEL="everything",
        DD_RUNTIME_METRICS_WIRE_TYPE="count",
        DD_DOGSTATSD_URL="udp://x:99999",
        DD_DOGSTATSD_PORT="65536",
    )
    lines = [line for line in printed.splitlines() if "expected" in line]
    lines = [re.sub(r"runtime-metrics\[\d+\]: ", "", line) for line in lines]
    names = sorted(line.split("=")[0] for line in lines)
    prefix = "runtime_metrics WARNING "
    assert names == [
        f"{prefix}DD_DOGSTATSD_PORT",
        f"{prefix}DD_DOGSTATSD_URL",
        f"{prefix}DD_RUNTIME_METRICS_INTERVAL",
        f"{prefix}DD_RUNTIME_METRICS_LEVEL",
        f"{prefix}DD_RUNTIME_METRICS_WIRE_TYPE",
    ]
    by_name = dict(zip(names, sorted(lines), strict=True))
    assert by_name[f"{prefix}DD_DOGSTATSD_URL"].endswith(
        "expected a port from 1 to 65535; udp://localhost:8125 (by default) is used"
    )


@pytest.mark.parametrize(
    ("service", "sent"),
    [
        ("a\nb", "a_b"),
        ("a|b", "a_b"),
        ("a,b", "a_b"),
        ("a#b c", "a_b_c"),
        ("a\N{GRINNING FACE}b", "a_b"),
        ("a:b::", "a:b"),
        ("x" * 10_000, "x" * 192),
        ("é" * 300, "é" * 192),
        ("\udcff", "___"),
        ("caf\N{LATIN SMALL LETTER E WITH ACUTE}/日本-1.0", "café/日本-1.0"),
    ],
)
def test_no_service_name_can_break_a_line(flushes: Flushes, service: str, sent: str) -> None:
    RuntimeMetrics.enable(dogstatsd_url=flushes.url, service=service)
    assert RuntimeMetrics.flush()
    flush = flushes.next()
    assert flush.tag("service") == sent
    assert_complete(flush.values)


def test_the_environment_is_read_as_python_sees_it(flushes: Flushes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DD_DOGSTATSD_PORT", flushes.url.rpartition(":")[2])
    monkeypatch.setenv("DD_RUNTIME_METRICS_INTERVAL", "0.1")
    monkeypatch.setenv("DD_RUNTIME_METRICS_RUNTIME_ID_ENABLED", "false")
    RuntimeMetrics.enable()
    flush = flushes.next()
    assert flush.tags[-1].startswith("lang_version:")


def test_variables_that_identify_the_process_are_followed_at_every_flush(
    flushes: Flushes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def service() -> str:
        assert RuntimeMetrics.flush()
        return flushes.next().tag("service")

    RuntimeMetrics.enable(dogstatsd_url=flushes.url)
    inferred = service()
    for value in ("web", "shop", "shop"):
        monkeypatch.setenv("DD_SERVICE", value)
        assert service() == service() == value
    with monkeypatch.context() as replacing:
        replacing.setattr(os, "environ", dict(os.environ, DD_SERVICE="replaced"))
        assert service() == service() == "replaced"
    assert service() == "shop"
    monkeypatch.delenv("DD_SERVICE")
    assert service() == service() == inferred


def test_every_transport_carries_all_metrics(tmp_path: Path) -> None:
    path = str(tmp_path / "dsd.socket")
    with Flushes.unix(path) as flushes:
        for url in (path, f"unix://{path}", f"unixgram://{path}"):
            RuntimeMetrics.enable(dogstatsd_url=url)
            assert RuntimeMetrics.flush()
            flush = flushes.next()
            assert_complete(flush.values)
            assert len(flush.datagrams) == 1
            RuntimeMetrics.disable()
            assert flushes.next().tags == flush.tags


def test_udp_datagrams_stay_within_a_frame(flushes: Flushes) -> None:
    RuntimeMetrics.enable(dogstatsd_url=flushes.url, tags=[f"tag{n}:{'v' * 40}" for n in range(10)])
    assert RuntimeMetrics.flush()
    flush = flushes.next()
    assert_complete(flush.values)
    assert max(map(len, flush.datagrams)) <= 1432
    assert len(flush.datagrams) > 4


def test_a_name_that_must_be_looked_up_is_looked_up(flushes: Flushes) -> None:
    port = flushes.url.rpartition(":")[2]
    # A name to our parser, which the resolver of the system turns into an address without a name server.
    RuntimeMetrics.enable(dogstatsd_url=f"127.1:{port}", flush_interval=1)
    assert_complete(flushes.next().values)


def test_a_receiver_that_is_missing_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "missing.socket"
    with caplog.at_level(logging.DEBUG, "runtime_metrics"):
        RuntimeMetrics.enable(dogstatsd_url=f"unix://{path}")
        assert [RuntimeMetrics.flush() for _ in range(5)] == [False] * 5
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert f"unix://{path} (from dogstatsd_url)" in caplog.messages[0]
        with Flushes.unix(str(path)) as flushes:
            assert RuntimeMetrics.flush()
            assert_complete(flushes.next().values)
            assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "INFO"]
            RuntimeMetrics.disable()


def test_a_handler_that_raises_does_not_reach_the_program(tmp_path: Path) -> None:
    class Raising(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise LookupError(record)

    logger, handler = logging.getLogger("runtime_metrics"), Raising()
    logger.addHandler(handler)
    try:
        RuntimeMetrics.enable(dogstatsd_url=f"unix://{tmp_path}/missing.socket")
        assert RuntimeMetrics.flush() is False
    finally:
        logger.removeHandler(handler)
        RuntimeMetrics.disable()


def test_many_threads_may_call_everything_at_once(flushes: Flushes) -> None:
    import gc
    import threading

    def call_everything() -> None:
        for _ in range(20):
            RuntimeMetrics.enable(dogstatsd_url=flushes.url)
            RuntimeMetrics.flush()
            gc.collect(0)
            RuntimeMetrics.snapshot()
            RuntimeMetrics.disable()

    with warnings.catch_warnings():
        logging.getLogger("runtime_metrics").setLevel(logging.CRITICAL)
        threads = [threading.Thread(target=call_everything) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        logging.getLogger("runtime_metrics").setLevel(logging.NOTSET)
    assert RuntimeMetrics._enabled is False
    assert gc.callbacks == []
