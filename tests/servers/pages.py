"""What the gunicorn of test_correlation.py runs: an application that ddtrace traces, and that knows nothing of it."""

from __future__ import annotations

import os

from flask import Flask


def answer() -> str:
    """This process's number."""
    return f"{os.getpid()}\n"


application = Flask(__name__)
application.add_url_rule("/", view_func=answer)
