"""Whatever stands between the program and its Agent: the program goes on, and no loss is passed over in silence.

What a program tells of its sending is compared with what its receivers have got, to the byte.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest
from agents import AT_A_PATH, Agent, Udp, UnixStream
from outages import Books, Busy, Report, running
from receiving import NAMES

from runtime_metrics import RuntimeMetrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the oracle is Linux's /proc")

# Seconds. What a flush may spend in sending is twice as long: a main thread that waited for it would be seen.
ALLOWANCE = 0.05

TRANSPORTS = ["udp", "unixgram", "unixstream"]

# Of every fault on every transport these do not exist.
LEFT_OUT = {
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
    """Has a test run on every transport that the fault exists on."""
    assert fault in FAULTS
    transports = [transport for transport in TRANSPORTS if transport not in LEFT_OUT.get(fault, {})]
    return pytest.mark.parametrize("place", transports, indirect=True)


class Place:
    """Where one receiver after the other can listen."""

    def __init__(self, transport: str, folder: Path) -> None:
        """Nobody listens yet."""
        self.transport = transport
        self.path = folder / "dsd.socket"
        if transport == "udp":
            with Udp() as free:
                self.port, self.url = free.port, free.url
        else:
            self.url = f"{transport}://{self.path}"

    def open(self) -> Agent:
        """A receiver."""
        return Udp(self.port) if self.transport == "udp" else AT_A_PATH[self.transport](self.path)

    def assert_balanced(self, books: Books) -> None:
        """What was sent has arrived, but for what is known to be lost."""
        # A UDP datagram is refused after the kernel has taken it; what a Unix socket does not take was not sent.
        sent, dropped = books.sent, books.dropped if self.transport == "udp" else (0, 0)
        assert books.got == (sent[0] - dropped[0], sent[1] - dropped[1])

    def assert_counted(self, books: Books) -> None:
        """What is missing was in the packets that were dropped: on a Unix socket there is one to a flush."""
        assert books.packets_dropped > 0
        values = 1 if self.transport == "udp" else len(NAMES) - 3
        missing = books.metrics - books.lines
        assert values * books.packets_dropped <= missing <= len(NAMES) * books.packets_dropped


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may look into; a Unix socket's path must be short."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.fixture
def place(request: pytest.FixtureRequest, folder: Path) -> Place:
    """A place for receivers of a transport."""
    return Place(request.param, folder)


@pytest.fixture(scope="module")
def calm() -> float:
    """How long the main thread stands still at most while there is no fault."""
    with Udp() as agent, running(Busy(agent.url, {})) as program:
        program.flushes(6, agent)
        program.order("collect", 3)
        return program.flushes(2, agent).longest


class RunBusy(Protocol):
    """Runs a program until the test is done with it."""

    def __call__(
        self, url: str, settings: Mapping[str, str] = {}, user: int | None = None
    ) -> AbstractContextManager[Busy]:
        """Takes where it sends, variables, and who it is to be."""


@pytest.fixture
def busy(calm: float) -> RunBusy:
    """Runs a program to its end, which is never to be held up longer than without faults."""

    @contextmanager
    def run(url: str, settings: Mapping[str, str] = {}, user: int | None = None) -> Iterator[Busy]:
        with running(Busy(url, settings, user=user)) as program:
            yield program
            assert program.order().longest < calm + ALLOWANCE

    return run


def test_without_faults_nothing_is_lost_or_said_and_no_pause_is_long(calm: float, busy: RunBusy) -> None:
    with Udp() as agent:
        with busy(agent.url) as program:
            report = program.flushes(3, agent)
            books = program.books(agent)
        agent.pump()
        last = agent.flushes()[-1]
    assert calm < ALLOWANCE
    assert report.status["state"] == "working"
    assert (books.lines, books.got, books.dropped) == (books.metrics, books.sent, (0, 0))
    assert report.levels() == []
    # The sample at the exit, for which nobody holds the interpreter.
    assert sorted(last.values) == sorted(NAMES)


@on_each_transport("no receiver")
def test_without_a_receiver_all_is_lost_counted_and_said_once(place: Place, busy: RunBusy) -> None:
    with busy(place.url) as program:
        report = program.flushes(4)
        books = program.books()
    place.assert_counted(books)
    # Of the last refusal on UDP the kernel tells at the next send.
    assert (
        books.packets_sent - books.packets_dropped == 1
        if place.transport == "udp"
        else not books.packets_sent
    )
    assert report.status["state"] == "failing"
    began = [told.status["since"] for told in program.reports if told.status["state"] == "failing"]
    assert max(began) - min(began) < 0.1, "since the first failure, not the last"
    assert report.levels() == ["WARNING"]
    (warning,) = report.texts("WARNING")
    assert warning.startswith(
        f"sending to {place.url} (from DD_DOGSTATSD_URL) fails: {report.status['error']}"
    )
    assert warning.endswith("will keep trying")


@on_each_transport("receiver appears")
def test_a_receiver_that_appears_gets_all_of_every_interval_from_then_on(place: Place, busy: RunBusy) -> None:
    with busy(place.url) as program:
        program.flushes(1)
        program.order("collect", 7)
        program.flushes(2)
        with place.open() as agent:
            found = program.books(agent)
            program.flushes(2, agent)
            program.order("collect", 3)
            report = program.flushes(2, agent)
            books = program.books(agent)
            flushes = agent.flushes()
    since = books - found
    assert since.lines == since.metrics > 3 * 15
    place.assert_balanced(books)
    place.assert_counted(books)
    # Values are their own interval's. What was lost has been counted and does not come later.
    assert flushes[0]["gc.collections.gen2"] == 0
    assert sum(flush["gc.collections.gen2"] for flush in flushes) == 3
    assert_recovered(report, books)


@on_each_transport("receiver restarts")
def test_a_receiver_that_restarts_misses_only_the_time_between(place: Place, busy: RunBusy) -> None:
    assert_restart_is_followed(place, busy, lambda: place.path.unlink(missing_ok=True), lambda: None)


@pytest.mark.parametrize("place", ["unixgram", "unixstream"], indirect=True)
def test_a_receiver_that_crashes_and_leaves_its_file_is_followed_as_well(place: Place, busy: RunBusy) -> None:
    assert_restart_is_followed(place, busy, lambda: None, place.path.unlink)


def assert_restart_is_followed(
    place: Place, busy: RunBusy, leave: Callable[[], None], come_back: Callable[[], None]
) -> None:
    """A receiver goes, time passes, and another comes at the same place."""
    with place.open() as before, busy(place.url) as program:
        program.flushes(2, before)
        before.close()
        leave()
        gone = program.books(before)
        program.flushes(2)
        come_back()
        with place.open() as after:
            back = program.books(before, after)
            report = program.flushes(3, after)
            books = program.books(before, after)
            assert after.flushes()[0].values.keys() >= {*NAMES[:5], *NAMES[8:]}
    assert gone.lines > 0
    since = books - back
    assert since.lines == since.metrics >= 3 * 15
    place.assert_balanced(books)
    place.assert_counted(books)
    assert_recovered(report, books)


@on_each_transport("path made anew")
def test_a_receiver_that_takes_another_s_place_gets_all_although_the_other_lives(
    place: Place, busy: RunBusy
) -> None:
    with place.open() as replaced, busy(place.url) as program:
        program.flushes(2, replaced)
        beside = place.path.with_name("beside")
        with AT_A_PATH[place.transport](beside) as agent:
            beside.rename(place.path)
            taken_over = program.books(replaced, agent)
            earlier = len(replaced.packets)
            report = program.flushes(3, replaced, agent)
            books = program.books(replaced, agent)
    since = books - taken_over
    assert since.lines == since.metrics >= 3 * 15
    assert (books.lines, books.got, books.dropped) == (books.metrics, books.sent, (0, 0))
    assert len(replaced.packets) == earlier
    assert report.levels() == []


@on_each_transport("path made anew")
def test_nothing_goes_to_a_receiver_whose_path_is_gone(place: Place, busy: RunBusy) -> None:
    with place.open() as hidden, busy(place.url) as program:
        program.flushes(2, hidden)
        place.path.unlink()
        gone = program.books(hidden)
        program.flushes(2, hidden)
        with place.open() as agent:
            back = program.books(hidden, agent)
            report = program.flushes(3, hidden, agent)
            books = program.books(hidden, agent)
    assert len(hidden.packets) == gone.packets_got > 0
    since = books - back
    assert since.lines == since.metrics >= 3 * 15
    place.assert_balanced(books)
    place.assert_counted(books)
    assert_recovered(report, books)


# A flush is almost the longest packet then, and a queue is full soon.
LONG_TAGS = {"DD_TAGS": ",".join(f"tag{number}:{'v' * 80}" for number in range(4))}


# Over UDP the same fault has a test of its own, below: nobody sees it.
@pytest.mark.parametrize("place", ["unixgram", "unixstream"], indirect=True)
def test_a_receiver_that_stops_reading_is_neither_waited_for_nor_left(place: Place, busy: RunBusy) -> None:
    with place.open() as agent, busy(place.url, LONG_TAGS) as program:
        program.flushes(1, agent)
        sockets = program.sockets()
        while not program.order("flush").status["packets_dropped"]:
            pass
        program.until(lambda report: "WARNING" in report.levels())
        program.flushes(2)
        assert program.sockets() == sockets
        back = program.books(agent)
        report = program.flushes(3, agent)
        books = program.books(agent)
        assert program.sockets() == sockets
    assert len(sockets) == 1
    since = books - back
    assert since.lines == since.metrics >= 3 * 15
    place.assert_balanced(books)
    place.assert_counted(books)
    # Not at once: a queue that is full for a moment is nothing to be told of.
    warned = [report for report in program.reports if report.levels()]
    assert warned[0].status["packets_dropped"] >= 6
    assert "does not keep up" in warned[0].texts("WARNING")[0]
    assert_recovered(report, books)


def test_half_a_frame_is_the_last_of_its_connection(
    folder: Path, busy: RunBusy, library: Callable[[str], str]
) -> None:
    # One frame has room, in two pieces.
    environment = {"LD_PRELOAD": library("small_buffers.c"), "DD_TAGS": f"tag:{'v' * 80}"}
    place = Place("unixstream", folder)
    agent = UnixStream(place.path)
    with agent, busy(place.url, environment) as program:
        full = program.until(lambda report: report.status["packets_dropped"] > 0)
        # Makes room for one piece of the next; the flush under way may have given up without.
        agent.nibble(2300)
        lost = full.status["packets_dropped"] + 2
        program.until(lambda report: report.status["packets_dropped"] >= lost)
        back = program.books(agent)
        program.flushes(3, agent)
        books = program.books(agent)
    assert agent.halves == 1
    since = books - back
    assert since.lines == since.metrics >= 3 * 15
    place.assert_balanced(books)
    place.assert_counted(books)


def test_what_a_udp_receiver_has_no_room_for_is_lost_unseen(busy: RunBusy) -> None:
    with Udp(room=16384) as agent, busy(agent.url) as program:
        program.flushes(1, agent)
        while agent.overflows() < 5:
            program.order("flush")
        back = program.books(agent)
        lost = agent.overflows()
        report = program.flushes(3, agent)
        books = program.books(agent)
        assert agent.overflows() == lost
    since = books - back
    assert since.lines == since.metrics >= 3 * 15
    # Only the receiver knows: docs/delivery.md says so.
    assert (books.packets_sent, books.dropped) == (books.packets_got + lost, (0, 0))
    assert (report.status["state"], report.levels()) == ("working", [])


@on_each_transport("permission denied")
@pytest.mark.parametrize("what", ["socket", "folder"])
def test_a_receiver_that_may_not_be_written_to_is_found_once_it_may(
    place: Place, busy: RunBusy, nobody: int | None, what: str
) -> None:
    denied = place.path if what == "socket" else place.path.parent
    with place.open() as agent:
        place.path.chmod(0o777)
        denied.chmod(0)
        with busy(place.url, user=nobody) as program:
            refused = program.flushes(3, agent)
            assert agent.packets == []
            denied.chmod(0o777)
            allowed = program.books(agent)
            report = program.flushes(3, agent)
            books = program.books(agent)
    (warning,) = refused.texts("WARNING")
    assert f"Permission denied (os error 13) (may user {os.getuid() if nobody is None else nobody}" in warning
    since = books - allowed
    assert since.lines == since.metrics >= 3 * 15
    place.assert_balanced(books)
    place.assert_counted(books)
    assert_recovered(report, books)


@on_each_transport("path too long")
def test_a_path_that_is_too_long_is_one_warning_and_the_next_setting_is_used(
    place: Place, busy: RunBusy
) -> None:
    long = f"{place.url}{'x' * (108 - len(str(place.path)))}"
    with pytest.raises(ValueError, match="dogstatsd_url="):
        RuntimeMetrics.enable(dogstatsd_url=long)
    with Udp() as agent:
        with busy(long, {"DD_AGENT_HOST": "127.0.0.1", "DD_DOGSTATSD_PORT": str(agent.port)}) as program:
            report = program.flushes(3, agent)
            books = program.books(agent)
        (warning,) = report.texts("WARNING")
        assert warning.startswith(f'DD_DOGSTATSD_URL="{long}": expected ')
        assert warning.endswith(f"udp://127.0.0.1:{agent.port} (from DD_AGENT_HOST) is used")
    assert report.levels() == ["WARNING"]
    assert (books.lines, books.got, books.dropped) == (books.metrics, books.sent, (0, 0))


@on_each_transport("path too long")
def test_the_longest_path_there_is_leads_to_its_receiver(place: Place, busy: RunBusy) -> None:
    place.path = Path(f"{place.path}{'x' * (107 - len(str(place.path)))}")
    with place.open() as agent, busy(agent.url) as program:
        report = program.flushes(2, agent)
        books = program.books(agent)
    assert report.levels() == []
    assert (books.lines, books.got, books.dropped) == (books.metrics, books.sent, (0, 0))


@on_each_transport("name unknown")
def test_a_name_is_looked_up_again_and_again_until_it_is_known(
    place: Place, busy: RunBusy, folder: Path, library: Callable[[str], str]
) -> None:
    notes, known = folder / "look-ups", folder / "known"
    environment = {"LD_PRELOAD": library("resolver.c"), "LOOK_UPS": str(notes), "RESOLVABLE": str(known)}

    def times() -> list[float]:
        return [float(line) for line in notes.read_text().splitlines()]

    with place.open() as agent, busy(f"agent.example:{place.port}", environment) as program:
        unknown = program.until(lambda report: report.metrics >= 4 * 15 and len(times()) == 2)
        lost = program.books(agent)
        known.touch()
        report = program.until(lambda report: report.status["state"] == "working", agent)
        first = agent.flushes()[0]
        found = program.books(agent)
        final = program.flushes(3, agent)
        books = program.books(agent)
    assert (unknown.status["state"], unknown.status["peer"]) == ("failing", None)
    assert "the name agent.example has not been resolved" in unknown.texts("WARNING")[0]
    assert (lost.sent, lost.got) == ((0, 0), (0, 0))
    assert lost.packets_dropped > 0
    assert first.values.keys() >= {*NAMES[:5], *NAMES[8:]}
    since = books - found
    assert since.lines == since.metrics >= 3 * 15
    # What has no address is not sent, unlike what is refused.
    assert books.got == books.sent
    assert report.status["peer"] == f"127.0.0.1:{place.port}"
    first_gap, second_gap = [later - earlier for earlier, later in pairwise(times())]
    # A second later, then two; a look-up waits for the flush after that, and its thread for a core.
    assert 0.9 < first_gap < 1.9 < second_gap < 3.9
    assert_recovered(final, books)


def assert_recovered(report: Report, books: Books) -> None:
    """Two lines were logged for the outage, of which the second tells the loss."""
    assert report.levels() == ["WARNING", "INFO"]
    assert report.status["state"] == "working"
    (info,) = report.texts("INFO")
    assert info.endswith(f" {books.packets_dropped} packets were lost")


@pytest.fixture
def library(tmp_path: Path) -> Callable[[str], str]:
    """Compiles a library that is to be loaded before all others."""

    def compiled(source: str) -> str:
        if (compiler := shutil.which("cc")) is None:
            pytest.skip("needs a C compiler for a library that plays a fault")
        built = tmp_path / f"{source}.so"
        here = Path(__file__).parent
        subprocess.run([compiler, "-shared", "-fPIC", "-o", built, here / source, "-ldl"], check=True)
        return str(built)

    return compiled


@pytest.fixture
def nobody() -> int | None:
    """Whom permissions hold for: they do not for the administrator."""
    if os.getuid() != 0:
        return None
    become = [sys.executable, "-c", "import os; os.setgroups([]); os.setgid(65534); os.setuid(65534)"]
    if subprocess.run(become, stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("needs to become a user whom permissions hold for")
    return 65534
