"""What the programs of test_tracers.py start with: a receiver in the same process, and its flushes by name."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections import Counter
from typing import Any

PREFIX = "runtime.python."

receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver.bind(("127.0.0.1", 0))
receiver.setblocking(False)
os.environ["DD_DOGSTATSD_URL"] = f"udp://127.0.0.1:{receiver.getsockname()[1]}"


def arrived() -> list[str]:
    """The lines that have arrived since the last call: on one host, what is sent has arrived."""
    payloads = []
    try:
        while True:
            payloads.append(receiver.recv(65536).decode())
    except BlockingIOError:
        return "".join(payloads).splitlines()


def names(lines: list[str]) -> Counter[str]:
    """How often each name occurs."""
    return Counter(line.partition(":")[0].removeprefix(PREFIX) for line in lines)


def types(lines: list[str]) -> dict[str, str]:
    """The type by name."""
    return {line.partition(":")[0].removeprefix(PREFIX): line.split("|")[1] for line in lines}


def tags(lines: list[str]) -> dict[str, str]:
    """The tags that every one of the lines carries."""
    (block,) = {line.partition("|#")[2].partition("|")[0] for line in lines}
    return dict(tag.partition(":")[::2] for tag in block.split(","))


def report(**facts: Any) -> None:
    """Prints facts for the test."""
    print(json.dumps(facts))
    sys.stdout.flush()
