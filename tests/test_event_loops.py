"""Event loops, tasks and pools of threads: each metric moves with its incident, and with no other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from catalogue_names import checks
from serving import SERVERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import InstalledIn
    from receiving import Flush, Flushes

    Figures = dict[str, Any]
    Observe = Callable[..., tuple[Figures, Flush]]

PROGRAM = Path(__file__).parent / "programs" / "event_loops.py"
# Where uvloop, anyio and gevent are.
SERVERS_PYTHON = str(SERVERS / "bin" / "python")
LOOP_NAMES = ["event_loop.delay.p95", "event_loop.delay.max", "event_loop.utilization"]


class Run(Protocol):
    """Runs a part of the program; returns what it has measured itself, and the flushes that it sent."""

    def __call__(
        self, part: str, *words: str, python: str = sys.executable, **environment: str
    ) -> tuple[Figures, list[Flush]]:
        """Takes the name of the part, and what follows it on the command line."""


@pytest.fixture
def run(flushes: Flushes) -> Run:
    """Any warning in the program is an error, and it may write nothing to stderr."""

    def run(
        part: str, *words: str, python: str = sys.executable, **environment: str
    ) -> tuple[Figures, list[Flush]]:
        variables = {"DD_DOGSTATSD_URL": flushes.url, **environment}
        done = subprocess.run(
            [python, "-W", "error", str(PROGRAM), part, *words],
            env=os.environ | variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout), flushes.rest()

    return run


@pytest.fixture
def observe(run: Run) -> Observe:
    """The same for a part that flushes before and after its work: the second of the two."""

    def observe(part: str, *words: str, **environment: str) -> tuple[Figures, Flush]:
        figures, (_, observed, *_) = run(part, *words, **environment)
        return figures, observed

    return observe


@pytest.mark.measures
@pytest.mark.parametrize("block", [0.03, 0.1, 0.4])
@checks("runtime.python.event_loop.delay.max")
def test_a_call_that_blocks_delays_the_loop_by_as_much(observe: Observe, block: float) -> None:
    figures, observed = observe("blocking", BLOCK=str(block))
    assert observed["event_loop.delay.max"] == pytest.approx(figures["blocked"] * 1e9, rel=0.05)
    assert observed["gil.wait.max"] < 20e6


@pytest.mark.measures
def test_a_beat_of_uvloop_comes_late_by_a_part_of_the_block(
    observe: Observe,
) -> None:
    figures, observed = observe("computing", "uvloop", python=SERVERS_PYTHON)
    # A beat is due at any moment of a block.
    assert 0.6 < observed["event_loop.delay.max"] / (figures["blocked"] * 1e9) < 1.05
    assert observed["event_loop.delay.p95"] <= observed["event_loop.delay.max"] * 1.07
    assert "event_loop.utilization" not in observed.values
    _, observed = observe("idle", "uvloop", python=SERVERS_PYTHON)
    assert observed["event_loop.delay.max"] < 20e6


@pytest.mark.measures
def test_who_holds_the_gil_elsewhere_delays_no_loop_that_waits(
    observe: Observe,
) -> None:
    _, held = observe("holding")
    assert held["gil.wait.max"] > 1e9
    assert held["event_loop.delay.max"] < 0.1e9
    _, busy = observe("busy_thread")
    assert busy["event_loop.delay.max"] < 0.1e9
    assert busy["event_loop.utilization"] < 50


@pytest.mark.measures
@checks("runtime.python.event_loop.delay.p95", "runtime.python.event_loop.utilization")
def test_the_percentile_is_that_of_the_definition(
    observe: Observe,
) -> None:
    figures, observed = observe("varied")
    lengths, wall = figures["lengths"], figures["wall"]
    # What 95 of 100 callbacks wait at most, to a tenth of a millisecond.
    delays = (step * 1e-4 for step in range(10_000))
    p95 = next(x for x in delays if sum(max(0.0, length - x) for length in lengths) <= 0.05 * wall)
    # To within a bucket of the histogram, and what the loop itself needs.
    assert observed["event_loop.delay.p95"] == pytest.approx(p95 * 1e9, rel=0.08)
    assert observed["event_loop.utilization"] == pytest.approx(100 * sum(lengths) / wall, abs=5)
    assert observed["event_loop.delay.max"] == pytest.approx(max(lengths) * 1e9, rel=0.1)
    _, idle = observe("idle")
    assert idle["event_loop.delay.p95"] == 0
    assert idle["event_loop.utilization"] < 3


@pytest.mark.measures
def test_of_two_loops_in_two_threads_the_busier_one_shows(run: Run) -> None:
    _, (_, observed, *_) = run("two_loops")
    assert observed["event_loop.delay.max"] == pytest.approx(0.1e9, rel=0.2)
    assert observed["event_loop.utilization"] == pytest.approx(50, abs=8)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_loop_that_starts_later_is_found(run: Run, loop: str) -> None:
    _, sent = run("found", loop, python=SERVERS_PYTHON)
    assert len(sent) > 5
    found = [flush for flush in sent if "event_loop.delay.max" in flush.values]
    assert len(found) > 4


@pytest.mark.parametrize("version", ["3.10", "3.12", "3.13"])
def test_a_loop_is_found_and_left_on_each_version(run: Run, installed_in: InstalledIn, version: str) -> None:
    python = installed_in(version)
    _, sent = run("found", python=python)
    assert any(flush.values.keys() >= set(LOOP_NAMES) for flush in sent)
    figures, (_, observed, *_) = run("tasks", python=python)
    assert observed["asyncio.tasks"] == figures["tasks"]
    figures, _ = run("callbacks", python=python)
    assert figures["observed"]
    run("disabled", python=python)


def test_a_loop_without_tasks_is_found_by_a_collection(run: Run) -> None:
    figures, _ = run("callbacks")
    assert figures["observed"]


def test_a_loop_in_debug_mode_runs_without_a_word(run: Run) -> None:
    _, sent = run("found", PYTHONASYNCIODEBUG="1")
    assert any(flush.values.keys() >= set(LOOP_NAMES) for flush in sent)


@pytest.mark.measures
def test_between_two_runs_a_loop_delays_nothing(run: Run) -> None:
    _, (_, observed, *_) = run("interrupted")
    assert observed["event_loop.delay.max"] < 0.2e9


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_loop_that_has_stopped_delays_nothing_while_nobody_can_ask_it(run: Run, loop: str) -> None:
    _, sent = run("stopped", loop, python=SERVERS_PYTHON)
    unanswered = [flush for flush in sent if "gc.count.gen0" not in flush.values]
    delays = [flush["event_loop.delay.max"] for flush in unanswered if "event_loop.delay.max" in flush.values]
    # The first after each of the two runs covers that as well.
    assert len(unanswered) >= 6
    assert len(delays) <= 2, delays


@pytest.mark.measures
def test_a_loop_that_runs_within_a_callback_of_itself_is_counted_once(
    observe: Observe,
) -> None:
    _, observed = observe("nested")
    assert observed["event_loop.delay.max"] < 0.1e9
    assert observed["event_loop.utilization"] < 20


@pytest.mark.measures
def test_a_forked_child_counts_its_own_loop_and_its_parent_does_not(run: Run) -> None:
    _, sent = run("forking")
    parent = sent[0].tag("runtime-id")
    of_parent = [flush for flush in sent if flush.tag("runtime-id") == parent]
    (start, of_child) = [flush for flush in sent if flush.tag("runtime-id") != parent]
    assert "event_loop.delay.max" not in start.values
    assert of_child["event_loop.delay.max"] == pytest.approx(1e9, rel=0.1)
    # It waits for its child, as long as the system needs.
    assert of_parent[1]["event_loop.delay.max"] < 0.8e9


@pytest.mark.parametrize("kind", ["own", "inherited"])
@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
def test_in_a_child_that_a_loop_forks_all_is_in_place_and_counts_for_the_child_alone(
    run: Run, installed_in: InstalledIn, version: str, kind: str
) -> None:
    _, sent = run("forked", kind, python=installed_in(version))
    parent = sent[0].tag("runtime-id")
    _, of_parent, *_ = [flush for flush in sent if flush.tag("runtime-id") == parent]
    _, of_child = [flush for flush in sent if flush.tag("runtime-id") != parent]
    never_retrieved = "exceptions.uncaught{source:asyncio_never_retrieved}"
    assert (of_child[never_retrieved], of_child["gc.collections.gen2"]) == (1, 1)
    assert of_child["event_loop.delay.max"] >= 0.2e9
    assert of_child["event_loop.utilization"] > 0
    assert never_retrieved not in of_parent.values
    assert of_parent["gc.collections.gen2"] == 3
    assert of_parent["event_loop.utilization"] > 0


@checks("runtime.python.asyncio.tasks")
def test_tasks_that_never_end_are_counted_and_threads_are_not(
    observe: Observe,
) -> None:
    figures, leaked = observe("tasks")
    assert leaked["asyncio.tasks"] == figures["tasks"] == 26
    figures, threads = observe("threads")
    assert threads["asyncio.tasks"] == figures["tasks"] == 1
    assert threads["thread_count"] > 50


@checks("runtime.python.executor.queue_depth")
def test_what_waits_for_a_thread_is_counted_and_what_has_one_is_not(run: Run) -> None:
    _, (full, *_) = run("full_pool")
    assert full["executor.queue_depth"] == 8
    _, (busy, *_) = run("busy_pool")
    assert busy["executor.queue_depth"] == 0
    _, (without, *_) = run("no_pool")
    assert "executor.queue_depth" not in without.values


def test_what_waits_for_a_thread_of_anyio_is_counted(run: Run) -> None:
    _, (full, empty, *_) = run("full_limiter", python=SERVERS_PYTHON)
    assert full["executor.queue_depth"] == 5
    assert empty["executor.queue_depth"] == 0


def test_a_loop_among_greenlets_is_left_alone(run: Run) -> None:
    _, (sent, *_) = run("patched", python=SERVERS_PYTHON)
    assert not any(name.startswith("event_loop") for name in sent.values)
    assert sent["asyncio.tasks"] == 1


def test_disabling_leaves_a_loop_as_it_was(run: Run) -> None:
    run("disabled")


def test_a_loop_whose_handles_cannot_be_referred_to_weakly_is_left_too(run: Run) -> None:
    run("unreferenceable")


def test_a_loop_that_is_found_while_metrics_are_disabled_is_left_as_it_was(run: Run) -> None:
    run("raced")


def test_a_loop_that_was_closed_is_not_kept_alive_nor_is_what_its_handler_refers_to(run: Run) -> None:
    run("closed")


def test_a_loop_that_was_closed_makes_room(run: Run) -> None:
    run("many_closed")


def test_a_loop_without_room_gets_no_timer_and_is_observed_once_there_is_room(run: Run) -> None:
    run("crowded")


def test_a_loop_beside_one_with_many_tasks_is_found(run: Run) -> None:
    run("beside_many_tasks")


def test_the_context_of_who_enables_is_not_kept(run: Run) -> None:
    run("contexts")


def test_the_last_flush_has_the_iteration_that_disables(run: Run) -> None:
    _, sent = run("last_iteration")
    assert sent[-1]["event_loop.delay.max"] >= 0.5e9


def test_runs_within_a_callback_are_iterations_as_the_others_are(run: Run) -> None:
    _, (_, observed, *_) = run("nested_runs")
    # The three callbacks that block, and nothing else, take a time to speak of.
    assert observed["event_loop.delay.max"] >= 0.3e9
    assert observed["event_loop.utilization"] > 80


def test_at_the_default_level_loops_are_left_alone(run: Run) -> None:
    _, sent = run("unobserved")
    assert not any(name.startswith(("event_loop", "asyncio", "executor")) for name in sent[0].values)
