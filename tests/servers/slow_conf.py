"""Gunicorn's settings for test_gunicorn_requests.py: a hook that takes its time after each request."""

from __future__ import annotations

import time

from runtime_metrics.gunicorn import install


def post_request(_worker: object, _request: object) -> None:
    """As one that tells somebody about it."""
    time.sleep(0.5)


install(globals())
