"""A function that is stored as an image: what it was before, and what it is after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import plain
from snapshot_restore_py import register_before_snapshot

at_the_image: list[str] = []


@register_before_snapshot
def look() -> None:
    """Runs after the hooks that are registered later."""
    at_the_image.extend(plain.descriptors(None, None))
    tasks = Path("/proc/self/task").iterdir()
    at_the_image.extend(name for task in tasks if (name := (task / "comm").read_text()).startswith("rtm-"))


from runtime_metrics import RuntimeMetrics  # noqa: E402
from runtime_metrics.aws_lambda import instrument  # noqa: E402


@instrument
def handler(event: Any, context: Any) -> dict[str, Any]:
    """Says what sockets and threads of ours the image has."""
    return {"at the image": at_the_image}


# Opens the socket.
before = plain.descriptors(None, None)
RuntimeMetrics.flush()
assert len(plain.descriptors(None, None)) == len(before) + 1
