"""A handler within a package."""

from typing import Any


def handler(event: Any, context: Any) -> Any:
    """Returns the event."""
    return event
