"""Ports reserved for a test: no other process gets one of them while no receiver of the test is listening."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# Where nothing ever listens.
DISCARD = ("127.0.0.1", 9)
DISCARD_URL = "udp://{}:{}".format(*DISCARD)


@contextmanager
def reserved_udp_port() -> Iterator[int]:
    """A UDP port of this host that refuses datagrams until a receiver binds it with SO_REUSEADDR."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        # Not before it is bound: two sockets with this option could get the same free port.
        holder.bind(("127.0.0.1", 0))
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # A connected socket receives only from its peer.
        holder.connect(DISCARD)
        yield holder.getsockname()[1]


@contextmanager
def reserved_tcp_port() -> Iterator[int]:
    """A TCP port of this host that refuses connections until a server listens there with SO_REUSEADDR."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]
