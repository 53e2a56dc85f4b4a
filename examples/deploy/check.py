"""Flushes twice from where the application runs, and says where metrics go and whether they were sent.

docker exec shop python check.py
kubectl exec deployment/shop -- python check.py
"""

from __future__ import annotations

import logging
import sys
import time

from runtime_metrics import RuntimeMetrics


def main() -> int:
    """Returns the exit status: 0 if the second flush was sent."""
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.getLogger("runtime_metrics").setLevel(logging.DEBUG)
    RuntimeMetrics.enable()
    time.sleep(1)  # Time to resolve a host name.
    RuntimeMetrics.flush()
    time.sleep(1)  # Over UDP, only the first packets show that nobody listens.
    sent = RuntimeMetrics.flush()
    print("sent" if sent else "not sent")
    return 0 if sent else 1


if __name__ == "__main__":
    sys.exit(main())
