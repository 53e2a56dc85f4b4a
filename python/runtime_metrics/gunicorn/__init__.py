"""Gunicorn's workers, requests and log as metrics, beside the runtime metrics of master and workers.

    gunicorn -c python:runtime_metrics.gunicorn app:app

or in a configuration file of one's own, as its first line, or, where that sets all the hooks itself, as its last:

    from runtime_metrics.gunicorn import *
    runtime_metrics.gunicorn.install(globals())

The first hook of ours that Gunicorn calls puts others around those of the configuration: they still run, in their order
and with their results. Nothing that goes wrong here reaches Gunicorn.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import functools
import importlib
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from runtime_metrics import _core, asgi, automatic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, MutableMapping

    _Hook = Callable[..., Any]

__all__ = ["install", "nworkers_changed", "on_starting", "pre_fork", "when_ready"]

_LOG = logging.getLogger("runtime_metrics")

# What has been complained of; once in a process is enough.
_said: set[object] = set()


def install(namespace: MutableMapping[str, Any]) -> None:
    """Puts metrics around the hooks of a configuration file; call it with ``globals()``, last."""
    theirs = namespace.get("nworkers_changed", nworkers_changed)
    if isinstance(theirs, str):
        # Gunicorn takes a dotted name, too. One that leads nowhere is Gunicorn's to tell of.
        module, _, name = theirs.rpartition(".")
        try:
            theirs = getattr(importlib.import_module(module), name)
        except (AttributeError, ImportError, ValueError):
            return
    if theirs is not nworkers_changed:
        theirs = _chained(theirs, before=_adopt)
    namespace["nworkers_changed"] = theirs


def nworkers_changed(server: Any, new_value: int, old_value: int | None) -> None:  # noqa: ARG001
    """Gunicorn's first hook, when it starts and when it reloads."""
    _adopt(server)


def on_starting(server: Any) -> None:
    """Gunicorn's hook before it listens."""
    _adopt(server)


def when_ready(server: Any) -> None:
    """Gunicorn's hook when it listens."""
    _adopt(server)


def pre_fork(server: Any, worker: Any) -> None:  # noqa: ARG001
    """Gunicorn's hook in the master before it forks a worker."""
    _adopt(server)


def _guarded(work: _Hook) -> _Hook:
    """What goes wrong here is logged once, and Gunicorn does not see it."""

    @functools.wraps(work)
    def guarded(*arguments: Any) -> Any:
        try:
            return work(*arguments)
        except Exception as error:
            _complain(work.__name__, error)

    return guarded


def _complain(where: str, error: Exception) -> None:
    # What it says may differ each time.
    _say(f"Gunicorn's metrics are incomplete: {where.strip('_')}: {error!r}", once=(where, type(error)))


def _say(text: str, once: object = None) -> None:
    if (once or text) not in _said:
        _said.add(once or text)
        # A filter of the program's may raise.
        with contextlib.suppress(Exception):
            _LOG.warning("%s", text)


def _chained(theirs: _Hook, *, before: _Hook | None = None, after: _Hook | None = None) -> _Hook:
    """A hook with ours before or after it. Gunicorn looks at its parameters, which are theirs."""

    @functools.wraps(theirs)
    def hook(*arguments: Any) -> Any:
        if before is not None:
            before(*arguments)
        try:
            return theirs(*arguments)
        finally:
            if after is not None:
                after(*arguments)

    return hook


class _Master:
    """What is known in the master, and inherited by its workers."""

    def __init__(self) -> None:
        self.server: Any = None
        self.cfg: Any = None
        self.part = _core.lead_gunicorn(self.question)

    def question(self) -> dict[str, Any]:
        """Answers the core, in any thread, what Gunicorn knows of itself."""
        server = self.server
        return {
            "workers": list(server.WORKERS),
            "replaced": self.is_replaced(),
            "backlog": None if self.sends_backlog() else _backlog(server.LISTENERS),
        }

    def is_replaced(self) -> bool:
        """Whether another master serves in its place: the one it has started by SIGUSR2, or the one that started it."""
        # Gunicorn sets neither before it has loaded the application.
        successor, predecessor = (getattr(self.server, name, 0) for name in ("reexec_pid", "master_pid"))
        return bool(successor) or (predecessor != 0 and predecessor == os.getppid())

    def sends_backlog(self) -> bool:
        """Whether Gunicorn itself does."""
        return _sends_metrics(self.server.log) and getattr(self.cfg, "enable_backlog_metric", False)


_master: _Master | None = None
_requests: _core.Requests | None = None


@_guarded
def _adopt(server: Any, *_: Any) -> None:
    """Puts our hooks around those of the configuration that Gunicorn has by now."""
    global _master
    if _master is None:
        automatic.start()
        if not _core.enabled():
            return
        _master = _Master()
        _follow(server)
        atexit.register(_on_giving_up, server)
    if _master.cfg is server.cfg:
        return
    _master.server, _master.cfg = server, server.cfg
    cfg, kind = server.cfg, _kind(server.worker_class)
    if kind is None:
        name = server.cfg.worker_class_str
        _say(
            f"Gunicorn's worker class {name} calls no hooks: requests are not counted, workers that use CPU are working"
        )
    _master.part.describe(cfg.proc_name, kind is None)
    _count_records(server.log, _master.part)
    cfg.set("post_fork", _chained(cfg.post_fork, before=_post_fork))
    cfg.set("post_worker_init", _chained(cfg.post_worker_init, after=_post_worker_init))
    cfg.set("child_exit", _chained(cfg.child_exit, before=_child_exit))
    cfg.set("on_exit", _chained(cfg.on_exit, after=_on_exit))
    if kind == "wsgi":
        cfg.set("pre_request", _pre_request(cfg.pre_request))
        is_default = cfg.post_request is cfg.settings["post_request"].default
        cfg.set("post_request", _post_request(cfg.post_request, does_nothing=is_default))


def _follow(server: Any) -> None:
    """Adopts the configuration of each reload, which may leave no hook to us that runs then."""
    theirs = server.setup

    @functools.wraps(theirs)
    def setup(app: Any) -> None:
        theirs(app)
        _adopt(server)

    server.setup = setup


def _kind(worker_class: Any) -> str | None:
    """How requests of a worker class can be seen: "wsgi" by hooks, around an ASGI application, or not at all."""
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


def _sends_metrics(log: Any) -> bool:
    """Whether Gunicorn's statsd_host is set and its logger heeds it."""
    statsd = sys.modules.get("gunicorn.instrument.statsd")
    # Without a socket, as where that of statsd_host was not there at the start, it sends nothing ever.
    return statsd is not None and isinstance(log, statsd.Statsd) and log.sock is not None


def _backlog(listeners: Iterable[Any]) -> int | None:
    """Connections that wait, of the listeners that know."""
    waiting = [listener.get_backlog() for listener in listeners if hasattr(listener, "get_backlog")]
    known = [number for number in waiting if number is not None and number >= 0]
    return sum(known) if known else None


# In the master.


@_guarded
def _child_exit(_server: Any, worker: Any) -> None:
    if _master is not None:
        _master.part.release(worker.pid)


@_guarded
def _on_exit(_server: Any) -> None:
    if _master is not None:
        # The last flush, at the interpreter's exit, tells it.
        _master.part.end()


@_guarded
def _on_giving_up(server: Any) -> None:
    # Gunicorn leaves out its last hook when its workers do not boot or its main loop fails. One that has had no workers
    # has said nothing so far: another may serve where it could not listen. Those that it has forked inherit this.
    if getattr(server, "pid", 0) == os.getpid() and server.worker_age:
        _on_exit(server)


def _count_records(log: Any, part: _core.GunicornMaster) -> None:
    """Counts what Gunicorn itself logs, in the master and all workers."""
    logger = getattr(log, "error_log", None)
    if logger is None or _sends_metrics(log) or any(isinstance(it, _Records) for it in logger.handlers):
        return
    logger.addHandler(_Records(part, logger.name))


class _Records(logging.Handler):
    """Counts records, without a lock: gevent may replace what locks are made of."""

    def __init__(self, part: _core.GunicornMaster, name: str) -> None:
        super().__init__(logging.WARNING)
        self._part = part
        # uvicorn's loggers are given Gunicorn's handlers.
        self._logger = name

    def createLock(self) -> None:  # noqa: N802
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        try:
            if record.name == self._logger:
                self._part.record(record.levelno, bool(record.exc_info))
        except Exception as error:
            _complain("log", error)
        return True


# In a worker.


@_guarded
def _post_fork(_server: Any, worker: Any) -> None:
    global _requests
    if _master is None:
        return
    kind = _kind(type(worker))
    gunicorn_counts = _sends_metrics(worker.log) and (
        kind == "wsgi" or (kind == "asgi" and getattr(worker.log, "access_log_enabled", True))
    )
    counts = kind is not None and not gunicorn_counts
    _requests = _master.part.work(lambda: {"connections": _connections(worker)}, counts, _capacity(worker))
    if counts and kind == "wsgi":
        _count_refused(worker, _requests)


def _capacity(worker: Any) -> int | None:
    """How many requests the worker can serve at once."""
    names = {parent.__name__ for parent in type(worker).__mro__}
    if "ThreadWorker" in names:
        return int(worker.cfg.threads)
    if "SyncWorker" in names:
        return 1
    return getattr(worker, "worker_connections", None)


def _connections(worker: Any) -> int | None:
    """How many connections the worker holds, if it can tell."""
    connections = getattr(worker, "nr_conns", getattr(worker, "_runtime_metrics_connections", None))
    return connections if isinstance(connections, int) else None


@_guarded
def _post_worker_init(worker: Any) -> None:
    requests = _requests
    if requests is None:
        return
    kind = _kind(type(worker))
    if kind == "asgi":
        worker.asgi = asgi.counted(worker.asgi, requests, _complain)
    elif kind == "uvicorn":
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, _flush_and_die)
        if asgi.is_asgi3(worker.wsgi, worker.config.interface):
            worker.wsgi = asgi.counted(worker.wsgi, requests, _complain)
        else:
            _say("the application is not ASGI 3: its requests are not counted")
    elif hasattr(worker, "timeout_ctx"):
        # gevent's worker alone does not count its connections.
        _count_connections(worker)


def _flush_and_die(number: int, _frame: object) -> None:
    """Ends as uvicorn does, by the signal that it was told to end by: that runs no exit handler."""
    _guarded(_core.flush)()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _count_connections(worker: Any) -> None:
    theirs = worker.handle
    worker._runtime_metrics_connections = 0

    def handle(*arguments: Any) -> Any:
        worker._runtime_metrics_connections += 1
        try:
            return theirs(*arguments)
        finally:
            worker._runtime_metrics_connections -= 1

    worker.handle = handle


# Around a request, where the worker calls hooks.


def _pre_request(theirs: _Hook) -> _Hook:
    @functools.wraps(theirs)
    def pre_request(worker: Any, req: Any) -> Any:
        try:
            if _requests is not None:
                req._runtime_metrics = _requests.begin()
        except Exception as error:
            _complain("pre_request", error)
        return theirs(worker, req)

    return pre_request


def _post_request(theirs: _Hook, *, does_nothing: bool) -> _Hook:
    @functools.wraps(theirs)
    def post_request(worker: Any, req: Any, environ: Any, resp: Any) -> Any:
        # What the application raised, which is on its way while this hook runs.
        raised = sys.exc_info()[1]
        request = getattr(req, "_runtime_metrics", None)
        if does_nothing:
            return _finish(request, req, environ, resp, raised)
        try:
            if request is not None:
                request.answer()
        except Exception as error:
            _complain("post_request", error)
        try:
            return theirs(worker, req, environ, resp)
        finally:
            _finish(request, req, environ, resp, raised)

    return post_request


def _finish(
    request: _core.Request | None, req: Any, environ: Any, resp: Any, raised: BaseException | None
) -> None:
    """Ends a request whose answer has left, or will not."""
    try:
        has_begun = resp is not None and resp.headers_sent
        if request is None:
            pass
        elif raised is None or has_begun or _is_gone(raised):
            request.end(resp and _status(resp), environ.get("HTTP_X_REQUEST_START"))
        elif hasattr(req, "stream"):
            # Over HTTP/2 the worker answers at once, and logs no other access.
            request.end(500, environ.get("HTTP_X_REQUEST_START"))
        else:
            # The worker may answer yet, and logs that as another access.
            request.fail(environ.get("HTTP_X_REQUEST_START"))
            req._runtime_metrics_failed = True
    except Exception as error:
        _complain("post_request", error)


def _is_gone(raised: BaseException) -> bool:
    """Whether the client has gone: whatever the application raises for that is not its fault."""
    if getattr(raised, "errno", None) in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN):
        return True
    http2 = sys.modules.get("gunicorn.http2.errors")
    return http2 is not None and isinstance(raised, (http2.HTTP2StreamError, http2.HTTP2ConnectionError))


def _status(resp: Any) -> int | None:
    """The status of a response that has begun, as Gunicorn takes it from the application."""
    status = resp.status
    return int(status.split(None, 1)[0]) if status else None


def _count_refused(worker: Any, requests: _core.Requests) -> None:
    """Counts what the worker itself answers: requests that it cannot read, and those that the application failed."""
    log = worker.log
    log_access, handle = log.access, worker.handle_error

    @functools.wraps(log_access)
    def access(resp: Any, req: Any, *arguments: Any) -> Any:
        try:
            request = getattr(req, "_runtime_metrics", None)
            if request is None:
                requests.refuse(_status(resp))
            elif getattr(req, "_runtime_metrics_failed", False):
                request.end(_status(resp))
        except Exception as error:
            _complain("access", error)
        return log_access(resp, req, *arguments)

    @functools.wraps(handle)
    def handle_error(*arguments: Any) -> Any:
        # Only the log gets to know the answer, and is left as it is until there is one. In one step, as threads may
        # come to this at once.
        vars(log).setdefault("access", access)
        return handle(*arguments)

    if "access" in vars(log):
        log.access = access
    else:
        worker.handle_error = handle_error
