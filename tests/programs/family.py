"""A process and two that it forks report what every process reports, and a receiver beside them checks what arrives.

It needs the package and the standard library alone, so it runs wherever CPython and fork do:

    python tests/programs/family.py

It prints one line that says what it saw. Its exit status is 0 if all of it was right.
"""

from __future__ import annotations

import os
import platform
import re
import socket
import time
from collections import defaultdict

from runtime_metrics import RuntimeMetrics, _core

INTERVAL = 0.2
# Long enough for a machine that emulates another.
TIMEOUT = float(os.environ.get("TIMEOUT", "60"))

PREFIX = "runtime.python."
NAMES = {
    metric.name
    for metric in _core.catalogue()
    if metric.level == "default" and not metric.by_name and metric.name.startswith(PREFIX)
}


def main() -> None:
    """Receives what the processes send until they have ended, and checks it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(0.1)
        parent = os.fork()
        if parent == 0:
            measured(f"udp://127.0.0.1:{receiver.getsockname()[1]}")
            return
        sent = received(receiver, parent)
    for process, names in sent.items():
        assert names == NAMES, f"{process} sent {names ^ NAMES} too little or too much"
    assert len(sent) == 3, f"the ids of three processes should have arrived: {[*sent]}"
    print(f"CPython {platform.python_version()} on {platform.machine()}: {len(NAMES)} metrics of 3 processes")


def measured(url: str) -> None:
    """Reports, as its children do, and ends as any process does."""
    RuntimeMetrics.enable(dogstatsd_url=url, flush_interval=INTERVAL, level="default")
    live()
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            assert RuntimeMetrics.snapshot(), "the child does not know that it is one"
            live()
            return
        children.append(child)
    # Side by side with them.
    live()
    for child in children:
        wait(child)


def live() -> None:
    """Lives until two flushes have been sent, and another would be complete."""
    enough = RuntimeMetrics.status()["metrics"] + 2 * len(NAMES)
    deadline = time.monotonic() + TIMEOUT
    missing = NAMES
    while missing or RuntimeMetrics.status()["metrics"] < enough:
        assert time.monotonic() < deadline, f"{missing} missing, {RuntimeMetrics.status()}"
        time.sleep(INTERVAL / 10)
        missing = NAMES - RuntimeMetrics.snapshot().keys()


def received(receiver: socket.socket, parent: int) -> dict[str, set[str]]:
    """The names that each process has sent, by its runtime-id, once all have ended."""
    sent = defaultdict[str, set[str]](set)
    deadline = time.monotonic() + 3 * TIMEOUT
    ended = False
    while True:
        try:
            lines = receiver.recv(65536).decode().splitlines()
        except TimeoutError:
            if ended:
                return dict(sent)
            # What it sent last may have arrived meanwhile.
            ended = has_ended(parent)
            assert time.monotonic() < deadline, "the process has not ended"
        else:
            for line in lines:
                ((name, tags),) = re.findall(r"^([\w.]+):[0-9.]+\|[dg]\|#([^|]+)", line)
                (process,) = re.findall(r"(?:^|,)runtime-id:([0-9a-f]{32})(?:,|$)", tags)
                sent[process].add(name)


def wait(child: int) -> None:
    """Waits until a child has ended."""
    deadline = time.monotonic() + TIMEOUT
    while not has_ended(child):
        assert time.monotonic() < deadline, "the child has not ended"
        time.sleep(0.01)


def has_ended(child: int) -> bool:
    """Whether a child has ended; fails if it did so with an error."""
    ended, status = os.waitpid(child, os.WNOHANG)
    assert status == 0, f"the exit status is {os.waitstatus_to_exitcode(status)}"
    return ended != 0


if __name__ == "__main__":
    main()
