"""Counts the requests of an ASGI application from around it, where the server has no hooks of its own."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from runtime_metrics import _core

    _Scope = MutableMapping[str, Any]
    _Receive = Callable[[], Awaitable[Any]]
    _Send = Callable[[Any], Awaitable[None]]
    _OnError = Callable[[str, Exception], None]
    _Application = Callable[[_Scope, _Receive, _Send], Awaitable[None]]


def is_asgi3(application: Any, interface: str) -> bool:
    """Whether uvicorn calls the application once, with all three arguments, as its setting `interface` decides."""
    if interface != "auto":
        return interface == "asgi3"
    if inspect.isclass(application):
        return hasattr(application, "__await__")
    if not inspect.isfunction(application):
        application = getattr(application, "__call__", None)  # noqa: B004
    return inspect.iscoroutinefunction(application)


def counted(application: _Application, requests: _core.Requests, on_error: _OnError) -> _Application:
    """Wraps an application so that its HTTP requests are counted.

    A request ends with the last chunk of its response: what the application does in the background afterwards is not
    part of it. A websocket is in flight as long as it is open, and is not counted as a request. Exceptions of the
    application pass through; those of the counting go to ``on_error``, with their place.
    """

    def begin(scope: _Scope) -> tuple[_core.Request | None, str | None]:
        try:
            # Read first: the application may change the scope.
            return requests.begin(), _queued_since(scope)
        except Exception as error:
            on_error("begin_request", error)
            return None, None

    async def counting(scope: _Scope, receive: _Receive, send: _Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await application(scope, receive, send)
        request, since = begin(scope)
        is_websocket = scope["type"] == "websocket"
        status = None

        def sending(message: Any) -> Awaitable[None]:
            nonlocal status
            kind = message["type"]
            if kind == "http.response.start":
                status = message["status"]
            elif kind == "http.response.body" and not message.get("more_body"):
                return finishing(message)
            return send(message)

        async def finishing(message: Any) -> None:
            try:
                await send(message)
            finally:
                end()

        def end() -> None:
            try:
                if request is None:
                    return
                if is_websocket:
                    request.leave()
                else:
                    request.end(status if isinstance(status, int) and 0 <= status < 1000 else None, since)
            except Exception as error:
                on_error("end_request", error)

        try:
            await application(scope, receive, sending)
            # If no response has begun, the server sends a 500 in its place; unless the request was cancelled.
            status = status or 500
        except Exception:
            status = status or 500
            raise
        finally:
            end()

    return counting


def _queued_since(scope: _Scope) -> str | None:
    """The header X-Request-Start, by which a proxy says when the request began to wait."""
    since = None
    for name, value in scope.get("headers", ()):
        if name == b"x-request-start":
            since = value.decode("latin-1")
    return since
