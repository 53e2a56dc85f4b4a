"""A container and its host, played by two network namespaces: what an Agent on the host gets from the container.

Nothing outside the two is touched, and they are gone with the processes that hold them.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from agents import Udp
from namespaces import Namespace, need_tools
from outages import Busy, running

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's")

HOST = "10.9.0.1"


class Container:
    """A network behind a host's."""

    def __init__(self, host: Namespace, inside: Namespace) -> None:
        """Joined by a pair of interfaces."""
        self.host, self.inside = host, inside
        commands = [
            (host, f"link add host0 type veth peer name eth0 netns {inside.pid}"),
            (host, f"addr add {HOST}/24 dev host0"),
            (host, "link set host0 up"),
            (inside, "addr add 10.9.0.2/24 dev eth0"),
            (inside, "link set eth0 up"),
        ]
        self.is_joined = all(namespace.ip(command) for namespace, command in commands)

    @contextmanager
    def running(self, port: int) -> Iterator[Busy]:
        """A program in the container that sends to the host."""
        with running(Busy(f"udp://{HOST}:{port}", {}, *self.inside.entering)) as program:
            yield program


@pytest.fixture
def container() -> Iterator[Container]:
    """A container and its host."""
    need_tools()
    host, inside = Namespace(), Namespace()
    try:
        if not (host.exists and inside.exists):
            pytest.skip("needs the right to make network namespaces")
        if not (container := Container(host, inside)).is_joined:
            pytest.skip("needs the right to join network namespaces by a pair of interfaces")
        yield container
    finally:
        inside.close()
        host.close()


def listening(container: Container, address: str, port: int = 0) -> Udp:
    """A receiver on the host."""
    return container.host.inside(lambda: Udp(port, address))


def test_an_agent_of_local_traffic_gets_nothing_and_one_warning_names_the_setting(
    container: Container,
) -> None:
    # Long enough for the host to tell of some refusals and not of others.
    with listening(container, "127.0.0.1") as agent, container.running(agent.port) as program:
        report = program.flushes(15, agent)
        books = program.books(agent)
    assert agent.packets == []
    assert report.status["state"] == "failing"
    assert 0 < books.packets_dropped < books.packets_sent
    assert report.levels() == ["WARNING"]
    (warning,) = report.texts("WARNING")
    assert "DD_DOGSTATSD_NON_LOCAL_TRAFFIC" in warning


def test_an_agent_of_all_traffic_gets_everything(container: Container) -> None:
    with listening(container, "0.0.0.0") as agent, container.running(agent.port) as program:
        report = program.flushes(4, agent)
        books = program.books(agent)
    assert (books.lines, books.got, books.dropped) == (books.metrics, books.sent, (0, 0))
    assert report.status["state"] == "working"
    assert report.levels() == []


def test_an_agent_that_begins_to_take_all_traffic_gets_everything_from_then_on(container: Container) -> None:
    with listening(container, "127.0.0.1") as local, container.running(local.port) as program:
        program.flushes(3)
        local.close()
        with listening(container, "0.0.0.0", local.port) as agent:
            begun = program.books(agent)
            report = program.flushes(4, agent)
            books = program.books(agent)
    since = books - begun
    assert since.lines == since.metrics >= 4 * 15
    assert report.levels() == ["WARNING"], "that all is well again is believed after a minute"


def test_a_route_that_is_prohibited_is_said_once_until_it_is_open(container: Container) -> None:
    prohibit = f"prohibit {HOST}/32"
    assert container.inside.ip(f"route add {prohibit}")
    with listening(container, "0.0.0.0") as agent, container.running(agent.port) as program:
        refused = program.flushes(3, agent)
        lost = program.books(agent)
        assert container.inside.ip(f"route del {prohibit}")
        opened = program.books(agent)
        report = program.flushes(3, agent)
        books = program.books(agent)
    (warning,) = refused.texts("WARNING")
    assert "Permission denied (os error 13) (does a firewall refuse it?)" in warning
    assert (lost.sent, lost.got) == ((0, 0), (0, 0))
    assert lost.packets_dropped >= 3
    since = books - opened
    assert since.lines == since.metrics >= 3 * 15
    assert books.got == books.sent
    assert report.levels() == ["WARNING", "INFO"]
