"""Gunicorn's settings for test_gunicorn_requests.py: master and workers write one record of each level."""

from __future__ import annotations

from typing import Any

from runtime_metrics.gunicorn import install


def when_ready(server: Any) -> None:
    """In the master, just before it forks."""
    log_at_each_level(server.log)


def post_worker_init(worker: Any) -> None:
    """In each worker."""
    log_at_each_level(worker.log)


def log_at_each_level(log: Any) -> None:
    """Logs one record at each level to Gunicorn's logger."""
    log.critical("critical")
    log.error("error")
    log.warning("warning")
    log.exception("exception")
    log.info("info")


install(globals())
