"""The application of test_gunicorn_workers.py and test_gunicorn_exits.py: its requests last as long as clients want.

Each answer begins with the id of its process, so that a client knows that its request is being served, and by which
process. `/hold` and `/spin` end when the client sends the one byte that its request announces.
"""

from __future__ import annotations

import os
import select
import signal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    Message = dict[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]

HELD = ("/hold", "/spin", "/raise", "/grow")
LAST = b"done\n"

# What `/grow` has allocated, until the process ends.
BALLAST: list[bytes] = []

# Seconds, more than any timeout of the tests. No process ever sends this signal.
BLOCKED_FOR = 8
NEVER = [signal.SIGRTMAX]


def wsgi(
    environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]
) -> Iterator[bytes]:
    """Answers as the path says."""
    path, first = environ["PATH_INFO"], whoami()
    before(path)
    start_response(
        "202 Accepted" if path == "/block" else "200 OK", [("Content-Length", str(len(first + LAST)))]
    )
    yield first
    if path == "/spin":
        while not select.select([environ["gunicorn.socket"]], [], [], 0)[0]:
            pass
    if path.startswith(HELD):
        environ["wsgi.input"].read(1)
    after(path)
    yield LAST


async def asgi(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Answers as the path says; a websocket stays open until its client leaves."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "bytes": whoami()})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        return
    assert scope["type"] == "http", "no lifespan"
    path, first = scope["path"], whoami()
    before(path)
    headers = [(b"content-length", str(len(first + LAST)).encode())]
    await send(
        {"type": "http.response.start", "status": 202 if path == "/block" else 200, "headers": headers}
    )
    await send({"type": "http.response.body", "body": first, "more_body": True})
    if path.startswith(HELD):
        while (await receive()).get("more_body"):
            pass
    after(path)
    await send({"type": "http.response.body", "body": LAST})


def whoami() -> bytes:
    """The first line of every answer."""
    return f"{os.getpid()}\n".encode()


def before(path: str) -> None:
    """What a request does before its answer begins."""
    if path.startswith("/grow"):
        BALLAST.append(b"\1" * (int(path.removeprefix("/grow/")) << 20))
    while path == "/forever":
        pass


def after(path: str) -> None:
    """What a request does before its answer ends."""
    if path == "/raise":
        raise ValueError("not handled")
    if path == "/block":
        # A wait in which neither an event loop nor a greenlet can run, as in a library in C.
        signal.sigtimedwait(NEVER, BLOCKED_FOR)
