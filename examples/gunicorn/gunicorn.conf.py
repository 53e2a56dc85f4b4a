"""The settings of Gunicorn. Metrics need only the first line."""

from runtime_metrics.gunicorn import *  # noqa: F403

workers = 3
proc_name = "demo"  # the tag `app`
