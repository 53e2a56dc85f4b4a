"""Client telemetry: what we report about our sending is what the receiver has got, and what it has not."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from agents import Address, UnixDatagrams
from catalogue_names import PERCENT_NAMES, TIMELESS_NAMES
from receiving import complete_flushes

from runtime_metrics import RuntimeMetrics, __version__

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CLIENT = "datadog.dogstatsd.client."
LINE = re.compile(rf"{re.escape(CLIENT)}(?P<name>[a-z_]+):(?P<count>[0-9]+)\|c\|#(?P<tags>.*)")
COUNTS = [
    "metrics",
    "packets_sent",
    "bytes_sent",
    "packets_dropped",
    "bytes_dropped",
    "packets_dropped_writer",
    "bytes_dropped_writer",
]
TRANSPORTS = {"udp": "udp", "unixgram": "uds", "unixstream": "uds-stream"}

on_each_transport = pytest.mark.parametrize("address", TRANSPORTS, indirect=True)


@pytest.fixture
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Address]:
    """An address for receivers of a transport; metrics are disabled when the test ends."""
    with Address(request.param, tmp_path) as address:
        yield address
        RuntimeMetrics.disable()


@pytest.fixture
def enabled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Telemetry is on, and each flush has the same number of lines, however long its interval is."""
    monkeypatch.setenv("DD_RUNTIME_METRICS_CLIENT_TELEMETRY", "true")
    monkeypatch.setenv("DD_RUNTIME_METRICS_EXCLUDE", ",".join(PERCENT_NAMES))


def got(packets: list[bytes]) -> Counter[str]:
    """What a receiver can count itself, under the names that the sender has for it."""
    lines = [line for packet in packets for line in packet.decode().splitlines()]
    return Counter(
        metrics=sum(not line.startswith(CLIENT) for line in lines),
        packets_sent=len(packets),
        bytes_sent=sum(map(len, packets)),
    )


def reported(packets: list[bytes]) -> Counter[str]:
    """The sums of the counts that the sender has reported."""
    counts: Counter[str] = Counter()
    for packet in packets:
        for line in packet.decode().splitlines():
            if match := LINE.fullmatch(line):
                counts[match["name"]] += int(match["count"])
    return counts


def telemetry_lines(packets: list[bytes]) -> list[re.Match[str]]:
    """The lines of telemetry."""
    lines = [line for packet in packets for line in packet.decode().splitlines() if line.startswith(CLIENT)]
    matches = [LINE.fullmatch(line) for line in lines]
    return [match for match in matches if match is not None]


@pytest.mark.usefixtures("enabled")
@on_each_transport
def test_each_flush_reports_what_had_arrived_before_it(address: Address) -> None:
    with address.open() as agent:
        RuntimeMetrics.enable(dogstatsd_url=agent.url)
        for _ in range(6):
            agent.drain()
            before = list(agent.packets)
            assert RuntimeMetrics.flush()
            agent.drain()
            assert reported(agent.packets) == got(before)
            assert [match["name"] for match in telemetry_lines(agent.packets[len(before) :])] == COUNTS
    assert got(before)["metrics"] == 5 * len(TIMELESS_NAMES)


@pytest.mark.usefixtures("enabled")
@on_each_transport
def test_telemetry_is_tagged_with_the_client_and_its_transport_and_then_as_every_line(
    address: Address,
) -> None:
    with address.open() as agent:
        RuntimeMetrics.enable(dogstatsd_url=agent.url, service="shop", tags={"team": "checkout"})
        assert RuntimeMetrics.flush()
        agent.drain()
    (common,) = {line.partition("|#")[2] for line in agent.packets[0].decode().splitlines()[:5]}
    assert common.startswith("service:shop,team:checkout,")
    client = f"client:python-runtime-metrics,client_version:{__version__}"
    (tags,) = {match["tags"] for match in telemetry_lines(agent.packets)}
    assert tags == f"{client},client_transport:{TRANSPORTS[address.transport]},{common}"


@pytest.mark.usefixtures("enabled")
@on_each_transport
def test_losses_of_an_outage_are_reported_after_it(address: Address) -> None:
    with address.open() as before:
        RuntimeMetrics.enable(dogstatsd_url=before.url)
        for _ in range(2):
            assert RuntimeMetrics.flush()
    address.path.unlink(missing_ok=True)
    for _ in range(3):
        RuntimeMetrics.flush()
    with address.open() as after:
        RuntimeMetrics.flush()
        after.drain()
        arrived = before.packets + after.packets
        status = RuntimeMetrics.status()
        assert RuntimeMetrics.flush()
        after.drain()
        sums = reported(before.packets + after.packets)
    assert sums["metrics"] == status["metrics"] == 6 * len(TIMELESS_NAMES)
    assert (sums["packets_sent"], sums["bytes_sent"]) == (status["packets_sent"], status["bytes_sent"])
    assert (sums["packets_dropped"], sums["bytes_dropped"]) == (
        status["packets_dropped"],
        status["bytes_dropped"],
    )
    assert sums["packets_dropped_writer"] == sums["packets_dropped"] >= 3
    assert sums["bytes_dropped_writer"] == sums["bytes_dropped"]
    # On UDP, the kernel had accepted what was refused: it does not count as sent.
    sent = Counter(packets_sent=sums["packets_sent"], bytes_sent=sums["bytes_sent"])
    received = got(arrived)
    del received["metrics"]
    assert sent == received


@pytest.mark.usefixtures("enabled")
def test_what_arrived_of_a_report_in_several_packets_is_not_reported_again(tmp_path: Path) -> None:
    cut_short = 0
    for size in (2, 7, 11):
        tags = {f"tag{number}": "v" * 100 for number in range(size)}
        with UnixDatagrams(tmp_path / f"{size}.socket") as agent:
            RuntimeMetrics.enable(dogstatsd_url=agent.url, tags=tags)
            assert RuntimeMetrics.flush()
            agent.drain()
            packets = len(agent.packets)
            assert packets > 1
            while RuntimeMetrics.flush():
                pass
            agent.drain()
            cut_short += len(agent.packets) % packets > 0
            assert RuntimeMetrics.flush()
            agent.drain()
            received, status = got(agent.packets), RuntimeMetrics.status()
            assert RuntimeMetrics.flush()
            agent.drain()
            sums = reported(agent.packets)
            RuntimeMetrics.disable()
        assert sums["metrics"] == status["metrics"]
        assert (sums["packets_sent"], sums["bytes_sent"]) == (
            received["packets_sent"],
            received["bytes_sent"],
        )
        assert (sums["packets_dropped"], sums["bytes_dropped"]) == (
            status["packets_dropped"],
            status["bytes_dropped"],
        )
    assert cut_short, "a queue had room for a part of a flush"


@on_each_transport
def test_no_telemetry_is_sent_by_default(address: Address) -> None:
    with address.open() as agent:
        RuntimeMetrics.enable(dogstatsd_url=agent.url)
        assert RuntimeMetrics.flush()
        assert RuntimeMetrics.flush()
    assert [packet for packet in agent.packets if CLIENT.encode() in packet] == []
    assert len(complete_flushes(agent.packets)) == 2


@pytest.mark.usefixtures("enabled")
@on_each_transport
def test_no_telemetry_is_sent_in_aws_lambda_even_if_it_is_enabled(
    address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "checkout")
    with address.open() as agent:
        RuntimeMetrics.enable(dogstatsd_url=agent.url)
        assert RuntimeMetrics.flush()
        assert RuntimeMetrics.flush()
    assert [packet for packet in agent.packets if CLIENT.encode() in packet] == []
    assert len(complete_flushes(agent.packets)) == 2
