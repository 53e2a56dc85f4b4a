"""The application that the Gunicorn of test_correlation.py runs; it is traced without a line about tracing."""

from __future__ import annotations

import os

from flask import Flask


def answer() -> str:
    """The id of this process."""
    return f"{os.getpid()}\n"


application = Flask(__name__)
application.add_url_rule("/", view_func=answer)
