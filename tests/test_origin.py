"""The origin fields and process tags of lines: the container and the program that they come from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from receiving import named

from runtime_metrics import RuntimeMetrics

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    from conftest import RunProgram
    from receiving import Flushes

ENTITY_ID = "3c8f-1d"
EXTERNAL_ENV = "it-false,cn-web,pu-3c8f-1d"
FIELDS = f"|e:{EXTERNAL_ENV}|card:high"


def test_origin_fields_from_the_environment_are_on_every_line(
    flushes: Flushes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DD_ENTITY_ID", ENTITY_ID)
    monkeypatch.setenv("DD_EXTERNAL_ENV", EXTERNAL_ENV)
    monkeypatch.setenv("DD_CARDINALITY", "High")
    RuntimeMetrics.enable(dogstatsd_url=flushes.url, service="web")
    for _ in range(2):
        assert RuntimeMetrics.flush()
        flush = flushes.next()
        assert flush.tags[:2] == (f"dd.internal.entity_id:{ENTITY_ID}", "service:web")
        # The id of the container precedes them where there is one.
        assert flush.origin.endswith(FIELDS)


def test_without_detection_only_the_configured_entity_id_is_sent(
    flushes: Flushes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DD_ENTITY_ID", ENTITY_ID)
    monkeypatch.setenv("DD_EXTERNAL_ENV", EXTERNAL_ENV)
    monkeypatch.setenv("DD_ORIGIN_DETECTION_ENABLED", "false")
    RuntimeMetrics.enable(dogstatsd_url=flushes.url)
    assert RuntimeMetrics.flush()
    flush = flushes.next()
    assert flush.origin == ""
    assert flush.tag("dd.internal.entity_id") == ENTITY_ID


def test_a_wrong_variable_is_one_warning(
    flushes: Flushes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DD_EXTERNAL_ENV", "cn-Web")
    monkeypatch.setenv("DATADOG_CARDINALITY", "low")
    for _ in range(2):
        RuntimeMetrics.enable(dogstatsd_url=flushes.url)
        RuntimeMetrics.disable()
        flush = flushes.next()
        assert flush.origin.endswith("|card:low")
        assert "|e:" not in flush.origin
    assert [message.partition("=")[0] for message in caplog.messages] == [named("DD_EXTERNAL_ENV")]


def test_a_child_sends_the_origin_fields_too(flushes: Flushes, run_program: RunProgram) -> None:
    run_program(
        """
        import os
        from runtime_metrics import RuntimeMetrics

        RuntimeMetrics.enable()
        RuntimeMetrics.flush()
        if os.fork() == 0:
            RuntimeMetrics.flush()
            os._exit(0)
        os.wait()
        """,
        DD_DOGSTATSD_URL=flushes.url,
        DD_CARDINALITY="high",
        DD_ENTITY_ID=ENTITY_ID,
        DD_EXTERNAL_ENV=EXTERNAL_ENV,
    )
    arrived = [flushes.next() for _ in range(3)]
    assert {flush.tags[0] for flush in arrived} == {f"dd.internal.entity_id:{ENTITY_ID}"}
    assert all(flush.origin.endswith(FIELDS) for flush in arrived)
    assert len({flush.tag("runtime-id") for flush in arrived}) == 2


def test_process_tags_describe_how_the_program_was_started(
    flushes: Flushes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "My Shop" / "serve.py"
    monkeypatch.setattr("sys.argv", [str(script), "--port", "80"])
    script.parent.mkdir()
    monkeypatch.chdir(script.parent)
    monkeypatch.setenv("DD_EXPERIMENTAL_PROPAGATE_PROCESS_TAGS_ENABLED", "true")
    RuntimeMetrics.enable(dogstatsd_url=flushes.url, service="web")
    assert RuntimeMetrics.flush()
    flush = flushes.next()
    after = flush.tags[flush.tags.index(f"runtime-id:{flush.tag('runtime-id')}") + 1 :]
    assert list(after) == sorted(after)
    assert flush.tag("entrypoint.basedir") == "my_shop"
    assert flush.tag("entrypoint.workdir") == "my_shop"
    assert flush.tag("svc.user") == "true"


def test_process_tags_are_not_sent_by_default(flushes: Flushes) -> None:
    RuntimeMetrics.enable(dogstatsd_url=flushes.url)
    assert RuntimeMetrics.flush()
    assert flushes.next().tags[-1].startswith("runtime-id:")
