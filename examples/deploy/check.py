"""Sends two samples from where the application runs, and says where they went and whether they left.

docker exec shop python check.py
kubectl exec deployment/shop -- python check.py
"""

from __future__ import annotations

import logging
import sys
import time

from runtime_metrics import RuntimeMetrics


def main() -> int:
    """Gives the exit status: 0 if the second sample has left."""
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.getLogger("runtime_metrics").setLevel(logging.DEBUG)
    RuntimeMetrics.enable()
    time.sleep(1)  # A name is looked up meanwhile.
    RuntimeMetrics.flush()
    time.sleep(1)  # Over UDP, that nobody listens is known only after the first packets.
    sent = RuntimeMetrics.flush()
    print("sent" if sent else "not sent")
    return 0 if sent else 1


if __name__ == "__main__":
    sys.exit(main())
