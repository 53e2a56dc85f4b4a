"""The application of test_gunicorn_requests.py: a page for everything that can become of an answer."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    Send = Callable[[dict[str, Any]], Awaitable[None]]
    StartResponse = Callable[[str, list[tuple[str, str]]], object]

STATUSES = {
    "/": "200 OK",
    "/missing": "404 Not Found",
    "/failing": "500 Internal Server Error",
    "/slow": "200 OK",
    "/late": "200 OK",
    "/background": "200 OK",
}
PAUSES = {"/slow": 0.02, "/raising": 0.4, "/late": 0.2}
PIECE = b"\0" * 65536


def wsgi(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    """Answers, or fails to, as the path says."""
    path = environ["PATH_INFO"]
    time.sleep(PAUSES.get(path, 0))
    if path == "/late":
        record_time()
    if path == "/taking":
        environ["wsgi.input"].read()
    if path in STATUSES:
        start_response(STATUSES[path], [("Content-Length", "2")])
        return [b"\r\n"]
    if path in PAGES:
        return PAGES[path](start_response)
    if path == "/started":
        start_response("200 OK", [])
    raise RuntimeError(path)


def held(start_response: StartResponse) -> Iterator[bytes]:
    """Starts at once and ends when the file HELD is removed."""
    start_response("200 OK", [])
    yield PIECE
    while os.path.exists(os.environ["HELD"]):
        time.sleep(0.01)


def streamed(start_response: StartResponse) -> Iterator[bytes]:
    """Sleeps between the parts of the body."""
    start_response("200 OK", [])
    for _ in range(3):
        time.sleep(0.05)
        yield PIECE


def lazy(start_response: StartResponse) -> Iterator[bytes]:
    """Fails after the response has a status and before any of it has been sent."""
    start_response("200 OK", [])
    raise RuntimeError("/lazy")
    yield b""


def broken(start_response: StartResponse) -> Iterator[bytes]:
    """Fails in the middle of the body."""
    start_response("200 OK", [])
    yield PIECE
    raise RuntimeError("/broken")


def endless(start_response: StartResponse) -> Iterator[bytes]:
    """Returns more than a socket holds, and records when the client has gone."""
    start_response("200 OK", [])
    try:
        for _ in range(256):
            yield PIECE
    finally:
        record_time()


def record_time() -> None:
    """Appends the time to the file RECORDED."""
    with open(os.environ["RECORDED"], "a") as recorded:
        recorded.write(f"{time.monotonic()}\n")


PAGES = {"/held": held, "/streamed": streamed, "/lazy": lazy, "/broken": broken, "/endless": endless}


async def asgi(scope: dict[str, Any], _: object, send: Send) -> None:
    """Answers in the same way."""
    assert scope["type"] == "http"
    path = scope["path"]
    await pause(PAUSES.get(path, 0))
    if path == "/raising":
        raise RuntimeError(path)
    if path == "/silent":
        return
    status = STATUSES.get(path)
    length = [(b"content-length", b"2")] if status else []
    await send({"type": "http.response.start", "status": int((status or "200")[:3]), "headers": length})
    if status is None:
        await body(path, send)
    last = b"\r\n" if status and scope["method"] != "HEAD" else b""
    await send({"type": "http.response.body", "body": last})
    if path == "/background":
        await hold()


async def body(path: str, send: Send) -> None:
    """Sends a body without its end."""
    piece = {"type": "http.response.body", "body": PIECE, "more_body": True}
    if path in ("/started", "/lazy"):
        raise RuntimeError(path)
    if path == "/streamed":
        for _ in range(3):
            await pause(0.05)
            await send(piece)
    elif path == "/endless":
        try:
            for _ in range(256):
                await send(piece)
        finally:
            record_time()
    elif path == "/held":
        await send(piece)
        await hold()
    else:
        await send(piece)
        raise RuntimeError(path)


async def hold() -> None:
    """Waits until the file HELD is removed."""
    while await asyncio.to_thread(Path(os.environ["HELD"]).exists):
        await asyncio.sleep(0.01)


async def pause(seconds: float) -> None:
    """Sleeps no less than this: an event loop may be early by the resolution of its clock."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        await asyncio.sleep(left)
