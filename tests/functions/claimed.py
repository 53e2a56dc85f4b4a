"""A function that names its service in code."""

import os
from typing import Any

from runtime_metrics import RuntimeMetrics
from runtime_metrics.aws_lambda import instrument

RuntimeMetrics.enable(service=os.environ.get("CLAIM"))


@instrument
def handler(event: Any, context: Any) -> None:
    """Does nothing."""
