"""`import runtime_metrics.auto` starts metrics where the launcher cannot: an embedded interpreter, `python -I`.

A later `RuntimeMetrics.enable()` with arguments applies them.
"""

from runtime_metrics import automatic

automatic.start(embedded=True)
