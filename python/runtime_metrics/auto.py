"""`import runtime_metrics.auto` starts metrics, where no launcher can: an embedded interpreter, `python -I`.

A later `RuntimeMetrics.enable()` with arguments applies them.
"""

from runtime_metrics import automatic

automatic.start(embedded=True)
