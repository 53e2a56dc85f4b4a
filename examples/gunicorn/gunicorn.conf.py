"""The settings of Gunicorn. Metrics need the first line, and nothing else."""

from runtime_metrics.gunicorn import *  # noqa: F403

workers = 3
proc_name = "demo"  # the tag `app`
