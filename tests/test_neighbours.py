"""Beside libraries that replace threads, and beside other interpreters in the same process."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache, partial
from typing import TYPE_CHECKING

import pytest
from catalogue_names import also_at_standard
from test_fork import ProgramRun, Programs, total

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs the credentials of senders")

FASTEST = 0.01
# eventlet warns that it is deprecated, and gevent about what it patches too late.
NO_WARNINGS = ("-W", "ignore")

LIBRARIES = [
    pytest.param(
        library,
        marks=pytest.mark.skipif(
            importlib.util.find_spec(library) is None, reason=f"{library} is not installed"
        ),
    )
    for library in ("gevent", "eventlet")
]


@pytest.fixture
def program(tmp_path: Path) -> Programs:
    """Runs programs."""
    return Programs(tmp_path)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ProgramRun]:
    """What the program reports for each library without us, from one run."""
    return cache(partial(run_without_us, Programs(tmp_path_factory.mktemp("bare"))))


def run_without_us(program: Programs, library: str) -> ProgramRun:
    """What the program reports without us."""
    run = program("hub.py", library, "never", options=NO_WARNINGS, interval=FASTEST)
    assert run.arrivals == []
    return run


@pytest.mark.measures
@pytest.mark.parametrize("patched", ["before", "after"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_hub_is_measured_and_not_delayed(program: Programs, library: str, patched: str) -> None:
    # One after the other, because the machine may be slower a minute later.
    without_us = run_without_us(program, library)
    run = program("hub.py", library, patched, options=NO_WARNINGS, interval=FASTEST)
    assert run.fact("parent")["threads"] == without_us.fact("parent")["threads"]
    assert run.fact("child")["threads"] == without_us.fact("child")["threads"]
    for role in ("parent", "child"):
        # A tick every 10 ms, for at least a second.
        assert len(run.sent_by(role)) > 50
        assert len(run.ids(role)) == 1
        # Half the period of the greenlet. The longest delays depend on the machine alone.
        assert run.fact(role)["median"] < without_us.fact(role)["median"] + 0.0025
    assert run.ids("parent").isdisjoint(run.ids("child"))


@also_at_standard("patched", ["before", "after"], "after")
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_warning_of_ours_adds_no_dummy_thread_in_a_hub(
    program: Programs, bare: Callable[[str], ProgramRun], tmp_path: Path, library: str, patched: str
) -> None:
    nowhere, without_us = f"unix://{tmp_path}/missing.socket", bare(library)
    run = program("hub.py", library, patched, nowhere, options=NO_WARNINGS, interval=FASTEST, warns=True)
    assert run.fact("parent")["threads"] == without_us.fact("parent")["threads"]
    assert run.fact("child")["threads"] == without_us.fact("child")["threads"]


@also_at_standard("order", ["before", "after"], "after")
@pytest.mark.parametrize("kind", ["isolated", "legacy"])
def test_a_sub_interpreter_does_not_disturb_the_main_one(
    program: Programs, tmp_path: Path, kind: str, order: str
) -> None:
    run = program("subinterpreter.py", kind, order, str(tmp_path / "result"))
    parent = run.fact("parent")
    assert (parent["enabled"], parent["flushed"]) == (True, True)
    # The explicit flush, and the last sample.
    assert len(run.arrivals) == 2
    assert len(run.ids("parent")) == 1
    assert total(run.arrivals, "gc.collections.gen2") == 2


@pytest.mark.skipif(sys.version_info < (3, 12), reason="before 3.12 every interpreter loads the extension")
def test_an_import_in_an_isolated_sub_interpreter_fails_with_a_clear_message(
    program: Programs, tmp_path: Path
) -> None:
    run = program("subinterpreter.py", "isolated", "after", str(tmp_path / "result"))
    assert "does not support loading in subinterpreters" in run.fact("parent")["result"]
