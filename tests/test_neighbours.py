"""Beside libraries that replace threads, and beside other interpreters in the same process."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING

import pytest
from test_fork import Programs, total

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="senders are told apart by their credentials")

FASTEST = 0.01
# eventlet warns of itself, and gevent's patching of what it patches too late.
QUIETLY = ("-W", "ignore")

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


@pytest.mark.parametrize("patched", ["before", "after"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_hub_is_measured_and_does_not_notice(program: Programs, library: str, patched: str) -> None:
    told = program("hub.py", library, patched, options=QUIETLY, interval=FASTEST)
    bare = program("hub.py", library, "never", options=QUIETLY, interval=FASTEST)
    assert bare.arrivals == []
    assert told.fact("parent")["threads"] == bare.fact("parent")["threads"]
    assert told.fact("child")["threads"] == bare.fact("child")["threads"]
    for role in ("parent", "child"):
        # A tick every 10 ms, for a second at least.
        assert len(told.sent_by(role)) > 50
        assert len(told.ids(role)) == 1
        # Half the time between two ticks of the greenlet. The slowest ones tell about the machine.
        assert told.fact(role)["median"] < bare.fact(role)["median"] + 0.0025
    assert told.ids("parent").isdisjoint(told.ids("child"))


@pytest.mark.parametrize("patched", ["before", "after"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_warning_of_ours_makes_up_no_thread_in_a_hub(
    program: Programs, tmp_path: Path, library: str, patched: str
) -> None:
    nowhere = f"unix://{tmp_path}/missing.socket"
    told = program("hub.py", library, patched, nowhere, options=QUIETLY, interval=FASTEST)
    bare = program("hub.py", library, "never", options=QUIETLY, interval=FASTEST)
    assert told.fact("parent")["threads"] == bare.fact("parent")["threads"]
    assert told.fact("child")["threads"] == bare.fact("child")["threads"]


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("kind", ["isolated", "legacy"])
def test_a_sub_interpreter_does_not_disturb_the_main_one(
    program: Programs, tmp_path: Path, kind: str, order: str
) -> None:
    told = program("subinterpreter.py", kind, order, str(tmp_path / "said"))
    parent = told.fact("parent")
    assert (parent["enabled"], parent["flushed"]) == (True, True)
    # The flush asked for, and the last sample.
    assert len(told.arrivals) == 2
    assert len(told.ids("parent")) == 1
    assert total(told.arrivals, "gc.collections.gen2") == 2


@pytest.mark.skipif(sys.version_info < (3, 12), reason="before 3.12 no interpreter refuses an extension")
def test_an_isolated_sub_interpreter_says_clearly_that_it_cannot_have_us(
    program: Programs, tmp_path: Path
) -> None:
    told = program("subinterpreter.py", "isolated", "after", str(tmp_path / "said"))
    assert "does not support loading in subinterpreters" in told.fact("parent")["said"]
