"""Gunicorn's workers, requests and log as metrics, beside the runtime metrics of master and workers.

    gunicorn -c python:runtime_metrics.gunicorn app:app

or in a configuration file, as its first line:

    from runtime_metrics.gunicorn import *

or, where that file itself defines `nworkers_changed`, `on_starting`, `when_ready` and `pre_fork`, as its last lines:

    from runtime_metrics.gunicorn import install
    install(globals())

The first of our hooks that Gunicorn calls wraps those of the configuration: they still run, in their order and with
their results. No error in here reaches Gunicorn.
"""

from __future__ import annotations

from runtime_metrics.gunicorn.hooks import install, nworkers_changed, on_starting, pre_fork, when_ready

__all__ = ["install", "nworkers_changed", "on_starting", "pre_fork", "when_ready"]
