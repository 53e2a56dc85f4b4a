"""The application: some requests wait, some compute, some fail."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def app(
    environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]
) -> Iterable[bytes]:
    """Responds by path."""
    status = "200 OK"
    path = environ["PATH_INFO"]
    if path == "/waits":
        time.sleep(0.4)  # as for a database: uses no CPU, yet keeps the worker busy
    elif path == "/computes":
        sum(range(5_000_000))
    elif path == "/raises":
        time.sleep(0.1)
        raise RuntimeError("this request fails")
    elif path != "/":
        status = "404 Not Found"
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", "3")])
    return [b"ok\n"]
