"""Gunicorn's settings for test_gunicorn_requests.py: a slow hook after each request."""

from __future__ import annotations

import time

from runtime_metrics.gunicorn import install


def post_request(_worker: object, _request: object) -> None:
    """As slow as a hook that calls another service."""
    time.sleep(0.5)


install(globals())
