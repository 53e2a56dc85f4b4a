"""`runtime-metrics check`: flushes twice from where it runs, and prints where metrics go and whether they were sent."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING

from runtime_metrics import RuntimeMetrics

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds no option: it is to send by the settings of the application, which are in its environment."""
    parser.epilog = "The settings are those of the environment. Exit status: 0 if the second flush was sent."


def run(_arguments: argparse.Namespace) -> int:
    """Flushes twice; fails if the second flush was not sent."""
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.getLogger("runtime_metrics").setLevel(logging.DEBUG)
    RuntimeMetrics.enable()
    time.sleep(1)  # Time to resolve a host name.
    RuntimeMetrics.flush()
    time.sleep(1)  # Over UDP, only the first packets show that nobody listens.
    sent = RuntimeMetrics.flush()
    print("sent" if sent else "not sent")
    return 0 if sent else 1
