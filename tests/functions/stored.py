"""A function with a snapshot: what it has at the snapshot, and what it has after a restore."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import plain
from snapshot_restore_py import register_before_snapshot

at_the_snapshot: list[str] = []


@register_before_snapshot
def record_sockets_and_threads() -> None:
    """Runs after the hooks that are registered later."""
    at_the_snapshot.extend(plain.descriptors(None, None))
    tasks = Path("/proc/self/task").iterdir()
    at_the_snapshot.extend(name for task in tasks if (name := (task / "comm").read_text()).startswith("rtm-"))
    # A restored process reads its settings anew.
    os.environ.pop("DD_RUNTIME_METRICS_EXCLUDE", None)


from runtime_metrics import RuntimeMetrics  # noqa: E402
from runtime_metrics.aws_lambda import instrument  # noqa: E402


@instrument
def handler(event: Any, context: Any) -> dict[str, Any]:
    """Returns the sockets and our threads at the time of the snapshot."""
    return {"at the snapshot": at_the_snapshot}


# Opens the socket.
before = plain.descriptors(None, None)
RuntimeMetrics.flush()
assert len(plain.descriptors(None, None)) == len(before) + 1
