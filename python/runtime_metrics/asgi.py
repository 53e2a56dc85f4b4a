"""The requests of an ASGI application, counted around it where the server has no hooks of its own."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from runtime_metrics import _core

    _Scope = MutableMapping[str, Any]
    _Receive = Callable[[], Awaitable[Any]]
    _Send = Callable[[Any], Awaitable[None]]
    _Complain = Callable[[str, Exception], None]
    _Application = Callable[[_Scope, _Receive, _Send], Awaitable[None]]


def is_asgi3(application: Any, interface: str) -> bool:
    """Tells whether uvicorn calls an application once, with everything, as it decides by its setting `interface`."""
    if interface != "auto":
        return interface == "asgi3"
    if inspect.isclass(application):
        return hasattr(application, "__await__")
    if not inspect.isfunction(application):
        application = getattr(application, "__call__", None)  # noqa: B004
    return inspect.iscoroutinefunction(application)


def counted(application: _Application, requests: _core.Requests, complain: _Complain) -> _Application:
    """Wraps an application so that its HTTP requests are counted.

    A request ends with the last piece of its answer: what the application does in the background afterwards is not part
    of it. A websocket is being served as long as it is open, and counts as no request. Whatever the application raises
    passes through; what goes wrong here goes to ``complain``, with its place.
    """

    def begin(scope: _Scope) -> tuple[_core.Request | None, str | None]:
        try:
            # The scope is the application's as soon as it has it.
            return requests.begin(), _queued_since(scope)
        except Exception as error:
            complain("begin", error)
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
                complain("end", error)

        try:
            await application(scope, receive, sending)
            # If it has not begun to answer, the server does in its place; unless it was cancelled.
            status = status or 500
        except Exception:
            status = status or 500
            raise
        finally:
            end()

    return counting


def _queued_since(scope: _Scope) -> str | None:
    """When the request began to wait, as a proxy tells."""
    since = None
    for name, value in scope.get("headers", ()):
        if name == b"x-request-start":
            since = value.decode("latin-1")
    return since
