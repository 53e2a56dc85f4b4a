"""A host name of several addresses: the receiver may listen at any of them."""

from __future__ import annotations

import socket
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from agents import Udp
from busy_program import BusyProgram, running
from ports import reserved_udp_port
from receiving import Flushes, complete_flushes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import RunProgram

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a refusal is known at once on Linux")


@pytest.fixture
def port() -> Iterator[int]:
    """A port that 127.0.0.1 refuses, and ::1 as long as nothing listens there."""
    with reserved_udp_port() as port:
        yield port


@pytest.fixture
def v6(port: int) -> Iterator[Flushes]:
    """A receiver on ::1 alone."""
    receiver = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    receiver.bind(("::1", port))
    with Flushes(receiver, f"udp://localhost:{port}") as flushes:
        yield flushes


def test_localhost_reaches_an_agent_on_the_other_loopback_address(
    v6: Flushes, run_program: RunProgram
) -> None:
    program = """
    import os
    from runtime_metrics import RuntimeMetrics
    from runtime_metrics.aws_lambda import lambda_metric
    lambda_metric("orders", 1)
    RuntimeMetrics.enable(flush_interval=3600)
    RuntimeMetrics.flush()
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        RuntimeMetrics.flush()
        status = RuntimeMetrics.status()
        print(status["state"], status["peer"], status["packets_dropped"], status["error"])
    """
    assert run_program(program, DD_DOGSTATSD_URL=v6.url) == f"working [::1]:{v6.url.split(':')[-1]} 0 None\n"
    first, *rest = v6.datagrams()
    assert first.startswith(b"orders:1|d|#")
    # Two, the child's last sample, and the parent's.
    assert len(complete_flushes(rest)) == 4


@pytest.mark.parametrize("setting", ["a URL", "a host and a port"])
def test_a_process_of_one_flush_reaches_it_as_well(
    v6: Flushes, run_program: RunProgram, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    if setting == "a URL":
        monkeypatch.setenv("DD_DOGSTATSD_URL", v6.url)
    else:
        monkeypatch.setenv("DD_AGENT_HOST", "LocalHost")
        monkeypatch.setenv("DD_DOGSTATSD_PORT", v6.url.split(":")[-1])
    program = """
    from runtime_metrics import RuntimeMetrics
    RuntimeMetrics.enable()
    """
    run_program(program)
    assert len(complete_flushes(v6.datagrams())) == 1


def test_a_name_that_is_refused_everywhere_is_one_warning_and_keeps_its_socket(port: int) -> None:
    # The receiver lives longer than the program, whose last sample would be refused.
    with ExitStack() as receivers, running(BusyProgram(f"udp://localhost:{port}", {})) as program:
        refused = program.until(lambda report: "WARNING" in report.levels())
        (warning,) = refused.texts("WARNING")
        sockets = program.sockets()
        program.flushes(5)
        assert program.sockets() == sockets
        assert len(sockets) == 1
        # Where the address that is tried first gets its receiver, the next flush arrives.
        agent = receivers.enter_context(Udp(port))
        program.flushes(3, agent)
        assert agent.flushes()
    assert "localhost is 127.0.0.1 and ::1" in warning
    assert program.reports[-1].texts("WARNING") == [warning]
