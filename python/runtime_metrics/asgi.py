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
    _Application = Callable[[_Scope, _Receive, _Send], Awaitable[None]]


def is_asgi3(application: Any) -> bool:
    """Tells whether an application is called once, with everything: the rule by which uvicorn tells them apart."""
    if inspect.isclass(application):
        return hasattr(application, "__await__")
    return inspect.iscoroutinefunction(application) or inspect.iscoroutinefunction(
        getattr(application, "__call__", None)  # noqa: B004
    )


def counted(application: _Application, requests: _core.Requests) -> _Application:
    """Wraps an application so that its HTTP requests are counted.

    A websocket is being served as long as it is open, and counts as no request. Whatever the application raises passes
    through.
    """

    async def counted(scope: _Scope, receive: _Receive, send: _Send) -> None:
        kind = scope["type"]
        if kind == "http":
            status = None

            def sending(message: Any) -> Awaitable[None]:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                return send(message)

            request = requests.begin()
            try:
                await application(scope, receive, sending)
            except Exception:
                # The server answers in its place, unless the answer has begun.
                status = status or 500
                raise
            finally:
                _end(request, status, scope)
        elif kind == "websocket":
            request = requests.begin()
            try:
                await application(scope, receive, send)
            finally:
                request.leave()
        else:
            await application(scope, receive, send)

    return counted


def _end(request: _core.Request, status: object, scope: _Scope) -> None:
    queued_since = None
    for name, value in scope.get("headers", ()):
        if name == b"x-request-start":
            queued_since = value.decode("latin-1")
    request.end(status if isinstance(status, int) and 0 <= status < 1000 else None, queued_since)
