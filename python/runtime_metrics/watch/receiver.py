"""A DogStatsD receiver on a local datagram socket."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING

from runtime_metrics.watch.dogstatsd import Line, MalformedLine, decode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

# Enough for what arrives while a terminal is drawn, and for the largest datagram of a Unix socket.
BUFFER_BYTES = 1 << 20
MAX_DATAGRAM_BYTES = 1 << 18
MAX_MALFORMED_KEPT = 100


class Receiver:
    """A bound datagram socket. Close it, or use it in a `with` statement."""

    def __init__(self, bound: socket.socket, address: str) -> None:
        """Takes over a bound socket; `udp` and `unix` make one."""
        self.address = address
        """The `DD_DOGSTATSD_URL` that leads here."""
        self.malformed: list[MalformedLine] = []
        """The first malformed lines, at most MAX_MALFORMED_KEPT."""
        self.malformed_count = 0
        self._socket = bound

    @classmethod
    def udp(cls, host: str = "127.0.0.1", port: int = 0) -> Receiver:
        """Binds a UDP socket; port 0 lets the system choose one.

        Raises:
            OSError: The port is taken, or the host is not an address of this machine.
        """
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        # A name may have addresses of both families, such as localhost: senders try IPv4 first.
        family, kind, protocol, _, where = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        bound = _bound(socket.socket(family, kind, protocol), where)
        host, port = bound.getsockname()[:2]
        return cls(bound, f"udp://[{host}]:{port}" if ":" in host else f"udp://{host}:{port}")

    @classmethod
    def unix(cls, path: str) -> Receiver:
        """Binds a Unix datagram socket; `close` removes its file.

        Raises:
            OSError: The file exists, its directory does not, or the platform has no such sockets.
        """
        if not hasattr(socket, "AF_UNIX"):
            raise OSError("this platform has no Unix sockets")
        path = os.path.abspath(path)
        return cls(_bound(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), path), f"unix://{path}")

    def lines(self, timeout: float) -> Iterator[Line]:
        """Yields lines as they arrive, until `timeout` seconds have passed."""
        deadline = time.monotonic() + timeout
        while (remaining := deadline - time.monotonic()) > 0:
            yield from self._receive(remaining) or ()

    def pending(self) -> Iterator[Line]:
        """Yields the lines that have already arrived, without waiting."""
        while (lines := self._receive(0)) is not None:
            yield from lines

    def close(self) -> None:
        """Closes the socket and removes its file."""
        self._socket.close()
        if self.address.startswith("unix://"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.address.removeprefix("unix://"))

    def __enter__(self) -> Receiver:
        """Returns the receiver."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the receiver."""
        self.close()

    def _receive(self, timeout: float) -> list[Line] | None:
        """The lines of one datagram; None if none came in time."""
        self._socket.settimeout(timeout)
        try:
            payload = self._socket.recv(MAX_DATAGRAM_BYTES)
        except (BlockingIOError, TimeoutError):
            return None
        malformed: list[MalformedLine] = []
        lines = list(decode(payload, malformed))
        self.malformed_count += len(malformed)
        self.malformed += malformed[: MAX_MALFORMED_KEPT - len(self.malformed)]
        return lines


def _bound(unbound: socket.socket, where: object) -> socket.socket:
    try:
        unbound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        unbound.bind(where)  # type: ignore[arg-type]
    except BaseException:
        unbound.close()
        raise
    return unbound
