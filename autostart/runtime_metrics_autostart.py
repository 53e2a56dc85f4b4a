"""Starts runtime-metrics in a process whose environment asks for it.

Python 3.15 and later call `start` each time they start, because of runtime_metrics_autostart.start. Earlier ones run
the line in runtime_metrics_autostart.pth, which imports this file only if the variable is set.
"""

from __future__ import annotations

import os


def start() -> None:
    """Starts metrics if DD_RUNTIME_METRICS_ENABLED is true; warns if it is invalid."""
    if os.environ.get("DD_RUNTIME_METRICS_ENABLED", "").lower() in ("", "false", "0"):
        return
    try:
        from runtime_metrics import automatic

        automatic.start(default=False)
    except ImportError:
        # Uninstalled from this environment, or not built for this interpreter: the program runs without metrics.
        pass
