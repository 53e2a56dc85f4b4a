"""A function that takes orders."""

from __future__ import annotations

from typing import Any

from runtime_metrics.aws_lambda import instrument, lambda_metric


@instrument
def handler(event: dict[str, Any], context: Any) -> dict[str, int]:
    """Each invocation sends its runtime metrics when it ends."""
    lambda_metric("coffee_house.order_value", event.get("value", 0), tags=["product:latte", "order:online"])
    return {"statusCode": 200}
