"""Faults between the program and its Agent: they never hold up the program, and every loss is reported.

What a program reports as sent is compared with what its receivers have read, to the byte.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest
from agents import UNIX_AGENTS, Address, Udp, UnixStream
from busy_program import BusyProgram, Report, Totals, running
from catalogue_names import CERTAIN_NAMES, NAMES, assert_complete

from runtime_metrics import RuntimeMetrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from conftest import Preloaded

pytestmark = [
    # The longest pause of each program is measured.
    pytest.mark.measures,
    pytest.mark.skipif(sys.platform != "linux", reason="the oracle is Linux's /proc"),
]

# Seconds. A flush may take twice as long to send, so that a main thread that waited for it would exceed this.
MAX_ADDED_PAUSE = 0.05

TRANSPORTS = ["udp", "unixgram", "unixstream"]

# The faults that do not exist on a transport.
IMPOSSIBLE = {
    "path made anew": {"udp": "a port is no file: who binds it again has it"},
    "permission denied": {"udp": "a port has no permissions; a route may: see test_namespaces.py"},
    "path too long": {"udp": "there is no path"},
    "name unknown": {"unixgram": "there is no name", "unixstream": "there is no name"},
}
FAULTS = [
    "no receiver",
    "receiver appears",
    "receiver restarts",
    "path made anew",
    "receiver stops reading",
    "permission denied",
    "path too long",
    "name unknown",
]


def on_each_transport(fault: str) -> pytest.MarkDecorator:
    """Runs a test on every transport on which the fault exists."""
    assert fault in FAULTS
    transports = [transport for transport in TRANSPORTS if transport not in IMPOSSIBLE.get(fault, {})]
    return pytest.mark.parametrize("address", transports, indirect=True)


class CheckedAddress(Address):
    """An address for receivers, with assertions about what was sent there."""

    def assert_balanced(self, totals: Totals) -> None:
        """Everything that was sent has arrived. What was refused does not count as sent."""
        assert totals.got == totals.sent

    def assert_counted(self, totals: Totals) -> None:
        """What is missing was in dropped packets: on a Unix socket, each holds a whole flush."""
        assert totals.packets_dropped > 0
        values = 1 if self.transport == "udp" else len(CERTAIN_NAMES)
        missing = totals.metrics - totals.lines
        assert values * totals.packets_dropped <= missing <= len(NAMES) * totals.packets_dropped


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may enter, with a short path for Unix sockets."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.fixture
def address(request: pytest.FixtureRequest, folder: Path) -> Iterator[CheckedAddress]:
    """An address for receivers of a transport."""
    with CheckedAddress(request.param, folder) as address:
        yield address


@pytest.fixture(scope="module")
def pause_without_faults() -> float:
    """The longest pause of the main thread without any fault."""
    with Udp() as agent, running(BusyProgram(agent.url, {})) as program:
        program.flushes(6, agent)
        program.command("collect", 3)
        return program.flushes(2, agent).longest_pause


class RunBusyProgram(Protocol):
    """Runs a program until the test is done with it."""

    def __call__(
        self, url: str, settings: Mapping[str, str] = {}, user: int | None = None
    ) -> AbstractContextManager[BusyProgram]:
        """Takes the address to send to, variables, and the id of the user to run as."""


@pytest.fixture
def busy(pause_without_faults: float) -> RunBusyProgram:
    """Runs a program to its end; its pauses must not be longer than without faults."""

    @contextmanager
    def run(url: str, settings: Mapping[str, str] = {}, user: int | None = None) -> Iterator[BusyProgram]:
        with running(BusyProgram(url, settings, user=user)) as program:
            yield program
            assert program.command().longest_pause < pause_without_faults + MAX_ADDED_PAUSE

    return run


def test_without_faults_nothing_is_lost_or_logged_and_no_pause_is_long(
    pause_without_faults: float, busy: RunBusyProgram
) -> None:
    with Udp() as agent:
        with busy(agent.url) as program:
            report = program.flushes(3, agent)
            totals = program.totals(agent)
        agent.drain()
        last = agent.flushes()[-1]
    assert pause_without_faults < MAX_ADDED_PAUSE
    assert report.status["state"] == "working"
    assert (totals.lines, totals.got, totals.dropped) == (totals.metrics, totals.sent, (0, 0))
    assert report.levels() == []
    # The sample at the exit, when the interpreter always answers.
    assert_complete(last.values)


@on_each_transport("no receiver")
def test_without_a_receiver_every_loss_is_counted_and_one_warning_logged(
    address: CheckedAddress, busy: RunBusyProgram
) -> None:
    with busy(address.url) as program:
        report = program.flushes(4)
        totals = program.totals()
    address.assert_counted(totals)
    # On UDP the kernel accepts what is refused then: it does not count as sent.
    assert totals.packets_sent == 0
    assert report.status["state"] == "failing"
    began = [report.status["since"] for report in program.reports if report.status["state"] == "failing"]
    assert max(began) - min(began) < 0.1, "since the first failure, not the last"
    assert report.levels() == ["WARNING"]
    (warning,) = report.texts("WARNING")
    assert warning.startswith(
        f"sending to {address.url} (from DD_DOGSTATSD_URL) fails: {report.status['error']}"
    )
    assert warning.endswith("will keep trying")


@on_each_transport("receiver appears")
def test_a_receiver_that_appears_gets_every_interval_from_then_on(
    address: CheckedAddress, busy: RunBusyProgram
) -> None:
    with busy(address.url) as program:
        program.flushes(1)
        program.command("collect", 7)
        program.flushes(2)
        with address.open() as agent:
            found = program.totals(agent)
            program.flushes(2, agent)
            program.command("collect", 3)
            report = program.flushes(2, agent)
            totals = program.totals(agent)
            flushes = agent.flushes()
    since = totals - found
    assert since.lines == since.metrics > 3 * len(NAMES)
    address.assert_balanced(totals)
    address.assert_counted(totals)
    # Values are those of their interval: what was lost is not sent later.
    assert flushes[0]["gc.collections.gen2"] == 0
    assert sum(flush["gc.collections.gen2"] for flush in flushes) == 3
    assert_recovered(report, totals)


@on_each_transport("receiver restarts")
def test_a_receiver_that_restarts_misses_only_the_time_between(
    address: CheckedAddress, busy: RunBusyProgram
) -> None:
    assert_restart_is_followed(address, busy, lambda: address.path.unlink(missing_ok=True), lambda: None)


@pytest.mark.parametrize("address", ["unixgram", "unixstream"], indirect=True)
def test_a_receiver_that_crashes_and_leaves_its_file_is_followed_as_well(
    address: CheckedAddress, busy: RunBusyProgram
) -> None:
    assert_restart_is_followed(address, busy, lambda: None, address.path.unlink)


def assert_restart_is_followed(
    address: CheckedAddress, busy: RunBusyProgram, leave: Callable[[], None], come_back: Callable[[], None]
) -> None:
    """A receiver ends, time passes, and another one starts at the same address."""
    with address.open() as before, busy(address.url) as program:
        program.flushes(2, before)
        before.close()
        leave()
        gone = program.totals(before)
        program.flushes(2)
        come_back()
        with address.open() as after:
            back = program.totals(before, after)
            report = program.flushes(3, after)
            totals = program.totals(before, after)
            assert after.flushes()[0].values.keys() >= set(CERTAIN_NAMES)
    assert gone.lines > 0
    since = totals - back
    assert since.lines == since.metrics >= 3 * len(NAMES)
    address.assert_balanced(totals)
    address.assert_counted(totals)
    assert_recovered(report, totals)


@on_each_transport("path made anew")
def test_a_receiver_that_replaces_another_gets_everything_though_the_other_still_runs(
    address: CheckedAddress, busy: RunBusyProgram
) -> None:
    with address.open() as replaced, busy(address.url) as program:
        program.flushes(2, replaced)
        other = address.path.with_name("other")
        with UNIX_AGENTS[address.transport](other) as agent:
            other.rename(address.path)
            taken_over = program.totals(replaced, agent)
            earlier = len(replaced.packets)
            report = program.flushes(3, replaced, agent)
            totals = program.totals(replaced, agent)
    since = totals - taken_over
    assert since.lines == since.metrics >= 3 * len(NAMES)
    assert (totals.lines, totals.got, totals.dropped) == (totals.metrics, totals.sent, (0, 0))
    assert len(replaced.packets) == earlier
    assert report.levels() == []


@on_each_transport("path made anew")
def test_nothing_is_sent_to_a_receiver_whose_path_was_removed(
    address: CheckedAddress, busy: RunBusyProgram
) -> None:
    with address.open() as hidden, busy(address.url) as program:
        program.flushes(2, hidden)
        address.path.unlink()
        gone = program.totals(hidden)
        program.flushes(2, hidden)
        with address.open() as agent:
            back = program.totals(hidden, agent)
            report = program.flushes(3, hidden, agent)
            totals = program.totals(hidden, agent)
    assert len(hidden.packets) == gone.packets_got > 0
    since = totals - back
    assert since.lines == since.metrics >= 3 * len(NAMES)
    address.assert_balanced(totals)
    address.assert_counted(totals)
    assert_recovered(report, totals)


# With these, a flush almost fills the longest packet, and a few fill a queue.
LONG_TAGS = {"DD_TAGS": ",".join(f"tag{number}:{'v' * 80}" for number in range(4))}


# UDP has a separate test below: there, nothing reports this fault.
@pytest.mark.parametrize("address", ["unixgram", "unixstream"], indirect=True)
def test_a_receiver_that_stops_reading_blocks_nothing_and_keeps_its_connection(
    address: CheckedAddress, busy: RunBusyProgram
) -> None:
    with address.open() as agent, busy(address.url, LONG_TAGS) as program:
        program.flushes(1, agent)
        sockets = program.sockets()
        while not program.command("flush").status["packets_dropped"]:
            pass
        program.until(lambda report: "WARNING" in report.levels())
        program.flushes(2)
        assert program.sockets() == sockets
        back = program.totals(agent)
        report = program.flushes(3, agent)
        totals = program.totals(agent)
        assert program.sockets() == sockets
    assert len(sockets) == 1
    since = totals - back
    assert since.lines == since.metrics >= 3 * len(NAMES)
    address.assert_balanced(totals)
    address.assert_counted(totals)
    # Not at once: a queue that is full for a moment is not worth a warning.
    warned = [report for report in program.reports if report.levels()]
    assert warned[0].status["packets_dropped"] >= 6
    assert "does not keep up" in warned[0].texts("WARNING")[0]
    assert_recovered(report, totals)


def test_a_partial_frame_is_the_last_of_its_connection(
    folder: Path, busy: RunBusyProgram, preloaded: Preloaded
) -> None:
    # The buffer holds one frame, in two pieces.
    environment = {"LD_PRELOAD": preloaded("small_buffers"), "DD_TAGS": f"tag:{'v' * 80}"}
    address = CheckedAddress("unixstream", folder)
    agent = UnixStream(address.path)
    with agent, busy(address.url, environment) as program:
        full = program.until(lambda report: report.status["packets_dropped"] > 0)
        # Makes room for one piece of the next frame; the current flush may have failed already.
        agent.read_exactly(2300)
        lost = full.status["packets_dropped"] + 2
        program.until(lambda report: report.status["packets_dropped"] >= lost)
        back = program.totals(agent)
        program.flushes(3, agent)
        totals = program.totals(agent)
    assert agent.partial_frames == 1
    since = totals - back
    assert since.lines == since.metrics >= 3 * len(NAMES)
    address.assert_balanced(totals)
    address.assert_counted(totals)


def test_datagrams_that_overflow_a_udp_receiver_are_lost_without_notice(busy: RunBusyProgram) -> None:
    with Udp(buffer_size=16384) as agent, busy(agent.url) as program:
        program.flushes(1, agent)
        while agent.overflows() < 5:
            program.command("flush")
        back = program.totals(agent)
        lost = agent.overflows()
        report = program.flushes(3, agent)
        totals = program.totals(agent)
        assert agent.overflows() == lost
    since = totals - back
    assert since.lines == since.metrics >= 3 * len(NAMES)
    # Only the receiver knows about the loss, as docs/delivery.md says.
    assert (totals.packets_sent, totals.dropped) == (totals.packets_got + lost, (0, 0))
    assert (report.status["state"], report.levels()) == ("working", [])


@on_each_transport("permission denied")
@pytest.mark.parametrize("what", ["socket", "folder"])
def test_a_receiver_is_reached_once_permission_is_granted(
    address: CheckedAddress, busy: RunBusyProgram, nobody: int | None, what: str
) -> None:
    denied = address.path if what == "socket" else address.path.parent
    with address.open() as agent:
        address.path.chmod(0o777)
        denied.chmod(0)
        with busy(address.url, user=nobody) as program:
            refused = program.flushes(3, agent)
            assert agent.packets == []
            denied.chmod(0o777)
            allowed = program.totals(agent)
            report = program.flushes(3, agent)
            totals = program.totals(agent)
    (warning,) = refused.texts("WARNING")
    assert f"Permission denied (os error 13) (may user {os.getuid() if nobody is None else nobody}" in warning
    since = totals - allowed
    assert since.lines == since.metrics >= 3 * len(NAMES)
    address.assert_balanced(totals)
    address.assert_counted(totals)
    assert_recovered(report, totals)


@on_each_transport("path too long")
def test_a_path_that_is_too_long_is_one_warning_and_the_next_setting_is_used(
    address: CheckedAddress, busy: RunBusyProgram
) -> None:
    long = f"{address.url}{'x' * (108 - len(str(address.path)))}"
    with pytest.raises(ValueError, match="dogstatsd_url="):
        RuntimeMetrics.enable(dogstatsd_url=long)
    with Udp() as agent:
        with busy(long, {"DD_AGENT_HOST": "127.0.0.1", "DD_DOGSTATSD_PORT": str(agent.port)}) as program:
            report = program.flushes(3, agent)
            totals = program.totals(agent)
        (warning,) = report.texts("WARNING")
        assert warning.startswith(f'DD_DOGSTATSD_URL="{long}": expected ')
        assert warning.endswith(f"udp://127.0.0.1:{agent.port} (from DD_AGENT_HOST) is used")
    assert report.levels() == ["WARNING"]
    assert (totals.lines, totals.got, totals.dropped) == (totals.metrics, totals.sent, (0, 0))


@on_each_transport("path too long")
def test_the_longest_possible_path_reaches_its_receiver(
    address: CheckedAddress, busy: RunBusyProgram
) -> None:
    address.path = Path(f"{address.path}{'x' * (107 - len(str(address.path)))}")
    with address.open() as agent, busy(agent.url) as program:
        report = program.flushes(2, agent)
        totals = program.totals(agent)
    assert report.levels() == []
    assert (totals.lines, totals.got, totals.dropped) == (totals.metrics, totals.sent, (0, 0))


@on_each_transport("name unknown")
def test_a_name_is_looked_up_with_backoff_until_it_resolves(
    address: CheckedAddress, busy: RunBusyProgram, folder: Path, preloaded: Preloaded
) -> None:
    notes, known = folder / "look-ups", folder / "known"
    environment = {
        "LD_PRELOAD": preloaded("switched_resolver"),
        "LOOK_UPS": str(notes),
        "RESOLVABLE": str(known),
    }

    def times() -> list[float]:
        return [float(line) for line in notes.read_text().splitlines()]

    with address.open() as agent, busy(f"agent.example:{address.port}", environment) as program:
        unknown = program.until(lambda report: report.metrics >= 4 * len(NAMES) and len(times()) == 2)
        lost = program.totals(agent)
        known.touch()
        report = program.until(lambda report: report.status["state"] == "working", agent)
        first = agent.flushes()[0]
        found = program.totals(agent)
        final = program.flushes(3, agent)
        totals = program.totals(agent)
    assert (unknown.status["state"], unknown.status["peer"]) == ("failing", None)
    assert "the name agent.example has not been resolved" in unknown.texts("WARNING")[0]
    assert (lost.sent, lost.got) == ((0, 0), (0, 0))
    assert lost.packets_dropped > 0
    assert first.values.keys() >= set(CERTAIN_NAMES)
    since = totals - found
    assert since.lines == since.metrics >= 3 * len(NAMES)
    # Without an address nothing is sent, unlike where a datagram is refused.
    assert totals.got == totals.sent
    assert report.status["peer"] == f"127.0.0.1:{address.port}"
    first_gap, second_gap = [later - earlier for earlier, later in pairwise(times())]
    # After one second, then two; a look-up starts with the next flush, once its thread has a core.
    assert 0.9 < first_gap < 1.9 < second_gap < 3.9
    assert_recovered(final, totals)


def assert_recovered(report: Report, totals: Totals) -> None:
    """Two lines were logged for the outage, and the second states the loss."""
    assert report.levels() == ["WARNING", "INFO"]
    assert report.status["state"] == "working"
    (info,) = report.texts("INFO")
    assert info.endswith(f" {totals.packets_dropped} packets were lost")


@pytest.fixture
def nobody() -> int | None:
    """A user who needs permissions, unlike root: the id of nobody, or None if the tests do not run as root."""
    if os.getuid() != 0:
        return None
    become = [sys.executable, "-c", "import os; os.setgroups([]); os.setgid(65534); os.setuid(65534)"]
    if subprocess.run(become, stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("needs the right to become the user nobody")
    return 65534
