"""In Gunicorn's master: its workers, whether it runs, the backlog, and the records of Gunicorn's log."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from runtime_metrics import _core
from runtime_metrics.gunicorn.guard import guarded, warn_of_failure

if TYPE_CHECKING:
    from collections.abc import Iterable


class Master:
    """The master process. The workers that it forks inherit this object."""

    def __init__(self, server: Any) -> None:
        """Takes Gunicorn's arbiter."""
        self.server = server
        self.cfg: Any = None
        """The configuration whose hooks are wrapped."""
        self.core = _core.become_gunicorn_master(self._facts)

    def _facts(self) -> dict[str, Any]:
        """What Gunicorn itself knows. The core calls this at each flush, in any thread."""
        return {
            "workers": list(self.server.WORKERS),
            "replaced": self._is_replaced(),
            "backlog": None if self._sends_backlog() else _backlog(self.server.LISTENERS),
        }

    def _is_replaced(self) -> bool:
        """Whether another master serves in its place: the one it has started by SIGUSR2, or the one that started it."""
        # Gunicorn sets neither before it has loaded the application.
        successor, predecessor = (getattr(self.server, name, 0) for name in ("reexec_pid", "master_pid"))
        return bool(successor) or (predecessor != 0 and predecessor == os.getppid())

    def _sends_backlog(self) -> bool:
        """Whether Gunicorn sends the backlog itself."""
        return sends_metrics(self.server.log) and getattr(self.cfg, "enable_backlog_metric", False)

    @guarded
    def child_exit(self, _server: Any, worker: Any) -> None:
        """Hook: a worker has ended."""
        self.core.release(worker.pid)

    @guarded
    def on_exit(self, _server: Any) -> None:
        """Hook: the master is about to exit. The last flush, at the interpreter's exit, reports it."""
        self.core.mark_ended()

    @guarded
    def at_exit(self) -> None:
        """At the interpreter's exit: Gunicorn calls no `on_exit` if its workers fail to boot or its main loop raises.

        A master that never had a worker has reported nothing: another may serve where it could not listen. Workers
        inherit this exit handler, which does nothing in them.
        """
        if getattr(self.server, "pid", 0) == os.getpid() and self.server.worker_age:
            self.on_exit(self.server)


def sends_metrics(log: Any) -> bool:
    """Whether Gunicorn's own metrics are on: `statsd_host` is set and the logger supports it."""
    statsd = sys.modules.get("gunicorn.instrument.statsd")
    # Without a socket, as when the one of statsd_host was not there at the start, it never sends.
    return statsd is not None and isinstance(log, statsd.Statsd) and log.sock is not None


def _backlog(listeners: Iterable[Any]) -> int | None:
    """Connections waiting to be accepted, over the listeners that know."""
    waiting = [listener.get_backlog() for listener in listeners if hasattr(listener, "get_backlog")]
    known = [number for number in waiting if number is not None and number >= 0]
    return sum(known) if known else None


def count_records(log: Any, core: _core.GunicornMaster) -> None:
    """Counts what Gunicorn itself logs, in the master and in all workers."""
    logger = getattr(log, "error_log", None)
    if logger is None or sends_metrics(log) or any(isinstance(it, _RecordCounter) for it in logger.handlers):
        return
    logger.addHandler(_RecordCounter(core, logger.name))


class _RecordCounter(logging.Handler):
    """Counts records without a lock: gevent may replace the primitives that locks are built on."""

    def __init__(self, core: _core.GunicornMaster, logger: str) -> None:
        super().__init__(logging.WARNING)
        self._core = core
        # Uvicorn's loggers share Gunicorn's handlers.
        self._logger = logger

    def createLock(self) -> None:  # noqa: N802
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        try:
            if record.name == self._logger:
                self._core.count_record(record.levelno, bool(record.exc_info))
        except Exception as error:
            warn_of_failure("log", error)
        return True
