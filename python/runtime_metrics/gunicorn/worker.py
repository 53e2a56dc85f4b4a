"""In Gunicorn's workers: their requests and connections.

`pre_request`, `post_request` and `_finish` run for every request: they look up no name in another module.
"""

from __future__ import annotations

import errno
import functools
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from runtime_metrics import _core, asgi
from runtime_metrics.gunicorn.guard import guarded, warn_of_failure, warn_once
from runtime_metrics.gunicorn.master import sends_metrics

if TYPE_CHECKING:
    from collections.abc import Callable

    _Hook = Callable[..., Any]

# Those of this process, once it is a worker.
_requests: _core.Requests | None = None


def worker_kind(worker_class: Any) -> str | None:
    """How requests of a worker class are counted: "wsgi" by hooks, "asgi" or "uvicorn" around the application.

    Returns:
        None if they cannot be counted.
    """
    names = {f"{parent.__module__}.{parent.__qualname__}" for parent in worker_class.__mro__}
    if getattr(worker_class, "server_class", None) is not None:
        # gevent's own WSGI server calls no hooks.
        return None
    if names & {
        "gunicorn.workers.sync.SyncWorker",
        "gunicorn.workers.gthread.ThreadWorker",
        "gunicorn.workers.base_async.AsyncWorker",
    }:
        return "wsgi"
    if "gunicorn.workers.gasgi.ASGIWorker" in names:
        return "asgi"
    if any(name.endswith(".UvicornWorker") for name in names):
        return "uvicorn"
    return None


@guarded
def post_fork(core: _core.GunicornMaster, _server: Any, worker: Any) -> None:
    """Hook: this process has just been forked as a worker."""
    global _requests
    kind = worker_kind(type(worker))
    gunicorn_counts = sends_metrics(worker.log) and (
        kind == "wsgi" or (kind == "asgi" and getattr(worker.log, "access_log_enabled", True))
    )
    counts = kind is not None and not gunicorn_counts
    _requests = core.become_worker(lambda: {"connections": _connections(worker)}, counts, _capacity(worker))
    if counts and kind == "wsgi":
        _count_error_responses(worker, _requests)


def _capacity(worker: Any) -> int | None:
    """How many requests the worker can serve at once."""
    names = {parent.__name__ for parent in type(worker).__mro__}
    if "ThreadWorker" in names:
        return int(worker.cfg.threads)
    if "SyncWorker" in names:
        return 1
    return getattr(worker, "worker_connections", None)


def _connections(worker: Any) -> int | None:
    """How many connections the worker holds, if it counts them."""
    connections = getattr(worker, "nr_conns", getattr(worker, "_runtime_metrics_connections", None))
    # gthread counts a connection twice that it closes as it stops, and is below zero then.
    return connections if isinstance(connections, int) and connections >= 0 else None


@guarded
def post_worker_init(worker: Any) -> None:
    """Hook: the worker has loaded the application."""
    requests = _requests
    if requests is None:
        return
    kind = worker_kind(type(worker))
    if kind == "asgi":
        worker.asgi = asgi.counted(worker.asgi, requests, warn_of_failure)
    elif kind == "uvicorn":
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, _flush_and_die)
        if asgi.is_asgi3(worker.wsgi, worker.config.interface):
            worker.wsgi = asgi.counted(worker.wsgi, requests, warn_of_failure)
        else:
            warn_once("the application is not ASGI 3: its requests are not counted")
    elif hasattr(worker, "timeout_ctx"):
        # Only gevent's worker does not count its connections.
        _count_connections(worker)


def _flush_and_die(number: int, _frame: object) -> None:
    """Dies of the signal, as uvicorn does after it has shut down; no exit handler runs, so this flushes."""
    guarded(_core.flush)()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _count_connections(worker: Any) -> None:
    original = worker.handle
    worker._runtime_metrics_connections = 0

    def handle(*arguments: Any) -> Any:
        worker._runtime_metrics_connections += 1
        try:
            return original(*arguments)
        finally:
            worker._runtime_metrics_connections -= 1

    worker.handle = handle


def wrap_pre_request(hook: _Hook) -> _Hook:
    """The hook before a request, which begins to count it."""

    @functools.wraps(hook)
    def pre_request(worker: Any, req: Any) -> Any:
        try:
            if _requests is not None:
                req._runtime_metrics = _requests.begin()
        except Exception as error:
            warn_of_failure("pre_request", error)
        return hook(worker, req)

    return pre_request


def wrap_post_request(hook: _Hook, *, does_nothing: bool) -> _Hook:
    """The hook after a request, which ends it. It leaves out a hook that does nothing."""

    @functools.wraps(hook)
    def post_request(worker: Any, req: Any, environ: Any, resp: Any) -> Any:
        # What the application raised, which is still being handled while this hook runs.
        raised = sys.exc_info()[1]
        request = getattr(req, "_runtime_metrics", None)
        if does_nothing:
            return _finish(request, req, environ, resp, raised)
        try:
            if request is not None:
                request.answer()
        except Exception as error:
            warn_of_failure("post_request", error)
        try:
            return hook(worker, req, environ, resp)
        finally:
            _finish(request, req, environ, resp, raised)

    return post_request


def _finish(
    request: _core.Request | None, req: Any, environ: Any, resp: Any, raised: BaseException | None
) -> None:
    """Ends a request whose response has been sent, or never will be."""
    try:
        has_begun = resp is not None and resp.headers_sent
        if request is None:
            pass
        elif raised is None or has_begun or _is_disconnect(raised):
            request.end(resp and _status(resp), environ.get("HTTP_X_REQUEST_START"))
        elif hasattr(req, "stream"):
            # Over HTTP/2 the worker responds at once, and logs no second access.
            request.end(500, environ.get("HTTP_X_REQUEST_START"))
        else:
            # The worker may still respond, and logs that as a second access.
            request.fail(environ.get("HTTP_X_REQUEST_START"))
            req._runtime_metrics_failed = True
    except Exception as error:
        warn_of_failure("post_request", error)


def _is_disconnect(raised: BaseException) -> bool:
    """Whether the client has disconnected: what the application raises then is not its fault."""
    if getattr(raised, "errno", None) in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN):
        return True
    http2 = sys.modules.get("gunicorn.http2.errors")
    return http2 is not None and isinstance(raised, (http2.HTTP2StreamError, http2.HTTP2ConnectionError))


def _status(resp: Any) -> int | None:
    """The status of a response that has begun, which Gunicorn keeps as the application gave it."""
    status = resp.status
    return int(status.split(None, 1)[0]) if status else None


def _count_error_responses(worker: Any, requests: _core.Requests) -> None:
    """Counts the responses of the worker itself: to requests that it cannot parse, or in which the application failed.

    Only its access log sees them. The log is wrapped at the first error, so that other requests pay nothing.
    """
    log = worker.log
    log_access, original = log.access, worker.handle_error

    @functools.wraps(log_access)
    def access(resp: Any, req: Any, *arguments: Any) -> Any:
        try:
            request = getattr(req, "_runtime_metrics", None)
            if request is None:
                requests.refuse(_status(resp))
            elif getattr(req, "_runtime_metrics_failed", False):
                request.end(_status(resp))
        except Exception as error:
            warn_of_failure("access", error)
        return log_access(resp, req, *arguments)

    @functools.wraps(original)
    def handle_error(*arguments: Any) -> Any:
        # In one step: several threads may arrive here at once.
        vars(log).setdefault("access", access)
        return original(*arguments)

    if "access" in vars(log):
        log.access = access
    else:
        worker.handle_error = handle_error
