"""A Chalice application whose every event passes through our middleware."""

from __future__ import annotations

from typing import Any

from chalice import Chalice, ConvertToMiddleware

from runtime_metrics.aws_lambda import instrument

app = Chalice("coffee")
app.register_middleware(ConvertToMiddleware(instrument))


@app.route("/")
def index() -> dict[str, str]:
    """Answers."""
    return {"hello": "world"}


@app.route("/fail")
def fail() -> None:
    """Raises."""
    raise ValueError("no coffee")


@app.lambda_function()
def pure(event: Any, context: Any) -> Any:
    """Returns the event."""
    return event


@app.on_sqs_message(queue="orders")
def orders(event: Any) -> list[str]:
    """Handles the messages of a queue."""
    return [record.body for record in event]
