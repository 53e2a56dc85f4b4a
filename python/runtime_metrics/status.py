"""The type of what `RuntimeMetrics.status()` returns.

Imported at its first use: `typing` takes milliseconds.
"""

from typing import Literal, TypedDict


class Status(TypedDict):
    """The delivery status, as RuntimeMetrics.status() describes it."""

    state: Literal["off", "disabled", "untried", "working", "failing", "busy", "on demand"]
    since: float | None
    error: str | None
    address: str | None
    chosen_by: str | None
    peer: str | None
    transport: Literal["udp", "uds", "uds-stream"] | None
    metrics: int
    packets_sent: int
    bytes_sent: int
    packets_dropped: int
    bytes_dropped: int
    left_to_ddtrace: list[str]
    selected: dict[str, str]
