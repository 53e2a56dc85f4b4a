"""Starts runtime-metrics in a process whose environment asks for it.

Python 3.15 and later call `start` at every start, because of runtime_metrics_autostart.start. Earlier ones run the line
of runtime_metrics_autostart.pth, which imports this file only if the variable is set.
"""

from __future__ import annotations

import os


def start() -> None:
    """Starts metrics if DD_RUNTIME_METRICS_ENABLED is true; warns if it is neither true nor false."""
    if os.environ.get("DD_RUNTIME_METRICS_ENABLED", "").lower() in ("", "false", "0"):
        return
    try:
        from runtime_metrics import automatic

        automatic.start(default=False)
    except ImportError:
        # Removed from this environment, or not built for this interpreter: it runs as if we were not there.
        pass
