"""How much time the wrapper adds to a handler that does nothing."""

from __future__ import annotations

import os
import time
from typing import Any

from runtime_metrics import RuntimeMetrics
from runtime_metrics.aws_lambda import instrument


@instrument
def nothing(event: Any, context: Any) -> None:
    """Does nothing."""


class Context:
    """A context with the attributes that are read."""

    invoked_function_arn = "arn:aws:lambda:eu-central-1:123456789012:function:coffee"
    function_version = "$LATEST"
    memory_limit_in_mb = "128"

    def __init__(self, number: int) -> None:
        """Belongs to a new invocation."""
        self.aws_request_id = f"timed-{number}"


# Outside of any invocation, so that each call counts as one.
TIMES = []
for number in range(int(os.environ["CALLS"])):
    context = Context(number)
    began = time.perf_counter()
    nothing(None, context)
    TIMES.append(time.perf_counter() - began)


def handler(event: Any, context: Any) -> dict[str, Any]:
    """Returns what was measured, and how many packets the system has refused."""
    return {"times": TIMES, "dropped": RuntimeMetrics.status()["packets_dropped"]}
