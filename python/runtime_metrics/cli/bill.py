"""How many series and names a service sends: what Datadog's contracts bill as custom metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from runtime_metrics._core import Metric

# For each series of a distribution: its count, sum, minimum, maximum and average.
AGGREGATIONS = 5


def text(metrics: Sequence[Metric], workers: int, hosts: int) -> str:
    """The count for so many processes on each of so many hosts.

    Each process has a runtime-id of its own, so that its series are its own too; without it, the processes of a host
    share theirs.
    """
    names = len(metrics)
    each = sum(metric.series for metric in metrics)
    apart, shared = each * workers * hosts, each * hosts
    counts = (
        ("names", names, "metrics, whatever their tags"),
        ("series of a process", each, "names with distinct tags"),
        (
            "series in all",
            apart,
            "each process has its runtime-id; one that is restarted counts twice in that hour",
        ),
    )
    bills = (
        ("by series, as distributions", apart * AGGREGATIONS, "the default"),
        ("by series, as gauges", apart, "DD_RUNTIME_METRICS_WIRE_TYPE=gauge"),
        (
            "as distributions, without runtime-id",
            shared * AGGREGATIONS,
            "DD_RUNTIME_METRICS_RUNTIME_ID_ENABLED=false",
        ),
        ("by name", names, ""),
    )
    return "\n".join(
        (
            f"{_number(workers, 'process', 'processes')} on each of {_number(hosts, 'host', 'hosts')}"
            f" {'sends' if workers == 1 else 'send'} at most",
            *_listed(counts),
            "",
            "If a contract bills runtime metrics as custom metrics, it bills one of these, averaged over all hours:",
            *_listed(bills),
            "",
            "The metrics of Gunicorn are not included.",
        )
    )


def _number(number: int, one: str, several: str) -> str:
    return f"{number:,} {one if number == 1 else several}"


def _listed(rows: Iterable[tuple[str, int, str]]) -> list[str]:
    return [f"  {label:38}{number:>12,}  {remark}".rstrip() for label, number, remark in rows]
