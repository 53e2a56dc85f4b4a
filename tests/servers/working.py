"""A program that works until it is stopped: what debugpy debugs."""

from __future__ import annotations

import signal
import sys
import time

from jobs import work

signal.signal(signal.SIGTERM, lambda *_: sys.exit())
while True:
    work()
    time.sleep(0.1)
