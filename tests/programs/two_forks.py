"""A process enables metrics, forks twice and ends, at the level that the command line names.

It prints how many names each process has sent, how the children ended, and whether there was a GIL at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import sys
import time
from typing import Literal, NoReturn

from runtime_metrics import RuntimeMetrics

INTERVAL, TIMEOUT = 0.2, 60
LINE = re.compile(r"(runtime\.python\.[a-z0-9_.]+):[^|\n]+\|d\|#[^\n]*?runtime-id:([0-9a-f]{32})")


def is_gil_enabled() -> bool:
    """Whether threads take turns."""
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def child() -> NoReturn:
    """Has a full snapshot, and lives for some intervals."""
    status = 1
    try:
        names = len(RuntimeMetrics.snapshot())
        time.sleep(4 * INTERVAL)
        # A change has a value once there is a second reading: until then cpu.percent is missing.
        status = 0 if names >= len(RuntimeMetrics.snapshot()) - 1 and not RuntimeMetrics.disable() else 2
    finally:
        os._exit(status)


def main(level: Literal["default", "standard"]) -> None:
    """Forks, listens and prints."""
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("127.0.0.1", 0))
    receiver.settimeout(5 * INTERVAL)
    url = f"udp://127.0.0.1:{receiver.getsockname()[1]}"
    RuntimeMetrics.enable(dogstatsd_url=url, flush_interval=INTERVAL, level=level)
    children = []
    for _ in range(2):
        if (pid := os.fork()) == 0:
            child()
        children.append(pid)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    wait_for_flush = time.monotonic() + 2 * INTERVAL
    while time.monotonic() < wait_for_flush:
        sum(range(10_000))
    snapshot = len(RuntimeMetrics.snapshot())
    RuntimeMetrics.disable()
    names: dict[str, set[str]] = {}
    try:
        while True:
            for name, runtime_id in LINE.findall(receiver.recv(65536).decode()):
                names.setdefault(runtime_id, set()).add(name)
    except TimeoutError:
        pass
    receiver.close()
    counts = sorted(len(found) for found in names.values())
    facts = {"names": counts, "snapshot": snapshot, "statuses": statuses, "is_gil_enabled": is_gil_enabled()}
    print(json.dumps(facts | {"all": sorted(set().union(*names.values()))}))


if __name__ == "__main__":
    arguments = argparse.ArgumentParser()
    arguments.add_argument("level", choices=["default", "standard"])
    main(arguments.parse_args().level)
