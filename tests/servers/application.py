"""The application that every server of test_servers.py runs: it answers with the id of its process.

ENABLE_IN names the place where metrics are enabled: here, or a hook of gunicorn_conf.py.
"""

from __future__ import annotations

import gc
import os
from functools import cache
from typing import TYPE_CHECKING, Any

from runtime_metrics import RuntimeMetrics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

MEBIBYTE = 1 << 20

# A forked process must be noticed without a garbage collection.
gc.disable()

if os.environ["ENABLE_IN"] == "application":
    RuntimeMetrics.enable()


def answer(_: object = None) -> str:
    """Works a little and returns the id of this process."""
    ballast()
    sum(range(200_000))
    return f"{os.getpid()}\n"


@cache
def ballast() -> bytes:
    """Memory by which this process differs from the others: each allocates 24 MiB more than the one before."""
    with open(os.environ["BALLASTS"], "ab", buffering=0) as ballasts:
        ballasts.write(b"\n")
        rank = ballasts.tell()
    return b"\1" * (rank * 24 * MEBIBYTE)


def wsgi(
    _: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]
) -> Iterable[bytes]:
    """Answers."""
    body = answer().encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


async def asgi(scope: dict[str, Any], _: object, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
    """Answers."""
    assert scope["type"] == "http"
    body = answer().encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
