"""A container and its host, in the form of two network namespaces: what an Agent on the host gets from the container.

Nothing outside the two is touched, and they are gone with the processes that hold them.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from agents import Udp
from busy_program import BusyProgram, running
from catalogue_names import NAMES
from namespaces import Namespace, need_tools

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's")

HOST = "10.9.0.1"


class Container:
    """A network namespace that is connected to another, of its host."""

    def __init__(self, host: Namespace, inside: Namespace) -> None:
        """Connects the two by a pair of interfaces."""
        self.host, self.inside = host, inside
        commands = [
            (host, f"link add host0 type veth peer name eth0 netns {inside.pid}"),
            (host, f"addr add {HOST}/24 dev host0"),
            (host, "link set host0 up"),
            (inside, "addr add 10.9.0.2/24 dev eth0"),
            (inside, "link set eth0 up"),
        ]
        self.is_connected = all(namespace.ip(command) for namespace, command in commands)

    @contextmanager
    def running(self, port: int) -> Iterator[BusyProgram]:
        """A program in the container that sends to the host."""
        with running(BusyProgram(f"udp://{HOST}:{port}", {}, *self.inside.entering)) as program:
            yield program


@pytest.fixture
def container() -> Iterator[Container]:
    """A container and its host."""
    need_tools()
    host, inside = Namespace(), Namespace()
    try:
        if not (host.exists and inside.exists):
            pytest.skip("needs the right to make network namespaces")
        if not (container := Container(host, inside)).is_connected:
            pytest.skip("needs the right to connect network namespaces by a pair of interfaces")
        yield container
    finally:
        inside.close()
        host.close()


def listening(container: Container, address: str, port: int = 0) -> Udp:
    """A receiver on the host."""
    return container.host.inside(lambda: Udp(port, address))


def test_an_agent_for_local_traffic_gets_nothing_and_one_warning_names_the_setting(
    container: Container,
) -> None:
    # Long enough for the host to report some refusals and not others.
    with listening(container, "127.0.0.1") as agent, container.running(agent.port) as program:
        report = program.flushes(15, agent)
        totals = program.totals(agent)
    assert agent.packets == []
    assert report.status["state"] == "failing"
    assert totals.packets_dropped > 0
    assert totals.packets_sent > 0
    assert report.levels() == ["WARNING"]
    (warning,) = report.texts("WARNING")
    assert "DD_DOGSTATSD_NON_LOCAL_TRAFFIC" in warning


def test_an_agent_for_all_traffic_gets_everything(container: Container) -> None:
    with listening(container, "0.0.0.0") as agent, container.running(agent.port) as program:
        report = program.flushes(4, agent)
        totals = program.totals(agent)
    assert (totals.lines, totals.got, totals.dropped) == (totals.metrics, totals.sent, (0, 0))
    assert report.status["state"] == "working"
    assert report.levels() == []


def test_an_agent_switched_to_all_traffic_gets_everything_from_then_on(container: Container) -> None:
    with listening(container, "127.0.0.1") as local, container.running(local.port) as program:
        program.flushes(3)
        local.close()
        with listening(container, "0.0.0.0", local.port) as agent:
            begun = program.totals(agent)
            report = program.flushes(4, agent)
            totals = program.totals(agent)
    since = totals - begun
    assert since.lines == since.metrics >= 4 * len(NAMES)
    assert report.levels() == ["WARNING"], "recovery is logged only after a minute"


def test_a_prohibited_route_is_logged_once_until_it_opens(container: Container) -> None:
    prohibit = f"prohibit {HOST}/32"
    assert container.inside.ip(f"route add {prohibit}")
    with listening(container, "0.0.0.0") as agent, container.running(agent.port) as program:
        refused = program.flushes(3, agent)
        lost = program.totals(agent)
        assert container.inside.ip(f"route del {prohibit}")
        opened = program.totals(agent)
        report = program.flushes(3, agent)
        totals = program.totals(agent)
    (warning,) = refused.texts("WARNING")
    assert "Permission denied (os error 13) (does a firewall or a sandbox refuse it?)" in warning
    assert (lost.sent, lost.got) == ((0, 0), (0, 0))
    assert lost.packets_dropped >= 3
    since = totals - opened
    assert since.lines == since.metrics >= 3 * len(NAMES)
    assert totals.got == totals.sent
    assert report.levels() == ["WARNING", "INFO"]
