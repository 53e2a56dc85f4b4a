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


def child(level: str) -> NoReturn:
    """Has a snapshot at once, and lives until it has sent all."""
    status = 1
    try:
        status = 2
        if RuntimeMetrics.snapshot():
            live(level)
            RuntimeMetrics.disable()
            status = 0
    finally:
        os._exit(status)


def live(level: str) -> None:
    """Lives until what is not known from the start has been: changes, and what a probe observes."""
    missing = {"cpu.percent"}
    if level == "standard":
        missing |= {"cpu.thread.max_percent", "os.hiccup.max", "gil.wait.p95", "gil.wait.max"}
    deadline = time.monotonic() + TIMEOUT
    while missing:
        assert time.monotonic() < deadline, missing
        missing -= {name.removeprefix("runtime.python.") for name in RuntimeMetrics.snapshot()}
        time.sleep(INTERVAL / 20)
    # Until it is sent.
    time.sleep(2 * INTERVAL)


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
            child(level)
        children.append(pid)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    live(level)
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
