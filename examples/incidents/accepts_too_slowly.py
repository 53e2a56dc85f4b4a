"""Connections wait to be accepted: the server is busy, and its traces show nothing of it (Linux)."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack

METRICS = ("accept_queue.depth", "fd.count")
LOOK_AT = "accept_queue.depth is the number of connections that wait."


def provoke(seconds: float) -> None:
    """Connects seven times to a socket that accepts none of them."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=50))
        for _ in range(7):
            stack.enter_context(socket.create_connection(listener.getsockname()))
        time.sleep(seconds)
