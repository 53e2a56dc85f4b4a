"""An ASGI application that works at its import; the test touches it, so that it is loaded again."""

from __future__ import annotations

from typing import Any

from jobs import work

work()


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answers nothing."""
