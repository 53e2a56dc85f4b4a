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


def is_asgi3(application: Any) -> bool:
    """Tells whether an application is called once, with everything: the rule by which uvicorn tells them apart."""
    if inspect.isclass(application):
        return hasattr(application, "__await__")
    return inspect.iscoroutinefunction(application) or inspect.iscoroutinefunction(
        getattr(application, "__call__", None)  # noqa: B004
    )


def counted(application: _Application, requests: _core.Requests, complain: _Complain) -> _Application:
    """Wraps an application so that its HTTP requests are counted.

    A websocket is being served as long as it is open, and counts as no request. Whatever the application raises passes
    through; what goes wrong here goes to ``complain``, with its place.
    """

    def begin() -> _core.Request | None:
        try:
            return requests.begin()
        except Exception as error:
            complain("begin", error)
            return None

    def end(request: _core.Request | None, status: object, scope: _Scope) -> None:
        try:
            if request is None:
                return
            if scope["type"] == "websocket":
                request.leave()
            else:
                request.end(status if isinstance(status, int) and 0 <= status < 1000 else None, _start(scope))
        except Exception as error:
            complain("end", error)

    async def counted(scope: _Scope, receive: _Receive, send: _Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await application(scope, receive, send)
        status = None

        def sending(message: Any) -> Awaitable[None]:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            return send(message)

        request = begin()
        try:
            await application(scope, receive, sending)
            # If it has not begun to answer, the server does in its place; unless it was cancelled.
            status = status or 500
        except Exception:
            status = status or 500
            raise
        finally:
            end(request, status, scope)

    return counted


def _start(scope: _Scope) -> str | None:
    """When the request began, as a proxy tells."""
    start = None
    for name, value in scope.get("headers", ()):
        if name == b"x-request-start":
            start = value.decode("latin-1")
    return start
