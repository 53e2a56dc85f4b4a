"""A handler within a package."""

from typing import Any


def handler(event: Any, context: Any) -> Any:
    """Answers with what it was asked."""
    return event
