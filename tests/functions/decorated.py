"""The same handlers, decorated; one of them twice, and two that send custom metrics."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import Any

import plain

from runtime_metrics.aws_lambda import instrument, lambda_metric

echo = instrument(plain.echo)
twice = instrument(instrument(plain.echo))
fail = instrument(plain.fail)
leave = instrument(plain.leave)


@instrument
def order(event: dict[str, Any], context: Any) -> None:
    """The example of Datadog's guide, and further arguments."""
    lambda_metric("coffee_house.order_value", 12.45, tags=["product:latte", "order:online"])
    now = time.time()
    lambda_metric("coffee_house.seconds", 1, timestamp=now - 3600)
    lambda_metric("coffee_house.datetime", 2, datetime.fromtimestamp(now - 60, timezone.utc), ["a b:c|d", ""])
    for age in (4 * 3600 + 5, 5 * 3600):
        lambda_metric("coffee_house.old", 3, timestamp=now - age)
    lambda_metric("coffee_house.nothing", float("nan"))


@instrument
def dated(event: int, context: Any) -> None:
    """Sends a custom metric of a time."""
    lambda_metric("orders", 1, event)


def route(event: str, context: Any) -> str:
    """Calls decorated handlers one after the other."""
    echo(event, context)
    echo(event, context)
    return event
