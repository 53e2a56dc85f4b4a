"""Receivers for every transport, which start, stop and read when a test says so, and count every byte.

Until the test drains a receiver, what was sent stays in its socket.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
from abc import ABC, abstractmethod
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from catalogue_names import FIRST
from ports import DISCARD, reserved_udp_port
from receiving import Flush, flush_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typing_extensions import Self

LINE = re.compile(
    r"(?P<name>[a-z0-9_.]+):(?P<value>[0-9]+(?:\.[0-9]+)?)\|(?P<type>[dgc])\|#(?P<tags>[^|\n]+)"
)
MAX_PACKET = 8192
LENGTH = struct.Struct("<I")


class Agent(ABC):
    """A receiver."""

    def __init__(self, url: str) -> None:
        """`url` is its address."""
        self.url = url
        self.packets: list[bytes] = []
        self._is_open = True

    def drain(self) -> None:
        """Reads everything that has arrived; nothing once it is closed."""
        if self._is_open:
            self._read()

    def close(self) -> None:
        """Stops receiving, reads what has arrived, and closes. The file of a Unix socket stays."""
        if self._is_open:
            self._stop()
            self._is_open = False

    @abstractmethod
    def _read(self) -> None:
        """Reads everything that has arrived."""

    @abstractmethod
    def _stop(self) -> None:
        """Stops receiving, reads the rest and closes."""

    def flushes(self) -> list[Flush]:
        """What has been read so far, by flush."""
        gathered: list[list[bytes]] = []
        for packet in self.packets:
            if packet.startswith(FIRST):
                gathered.append([])
            gathered[-1].append(packet)
        return [flush_of(packets, at=0) for packets in gathered]

    def _keep(self, packet: bytes) -> None:
        assert 0 < len(packet) <= MAX_PACKET
        lines = packet.decode().split("\n")
        assert lines.pop() == "", "a packet ends with a line feed"
        unknown = [line for line in lines if not LINE.fullmatch(line)]
        assert not unknown, (
            f"{unknown}: LINE in tests/agents.py accepts only a number that is not negative, of type d, g or c, with"
            " tags and nothing after them; if the library may send these, extend it"
        )
        self.packets.append(packet)

    def __enter__(self) -> Self:
        """Returns the receiver."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()


class Datagrams(Agent):
    """A receiver of datagrams."""

    def __init__(self, receiver: socket.socket, url: str) -> None:
        """Takes over a bound socket."""
        super().__init__(url)
        receiver.setblocking(False)
        self._socket = receiver

    def _read(self) -> None:
        with suppress(BlockingIOError):
            while packet := self._socket.recv(65536):
                self._keep(packet)


class Udp(Datagrams):
    """A receiver on a UDP port, any free one by default."""

    def __init__(self, port: int = 0, host: str = "127.0.0.1", buffer_size: int | None = None) -> None:
        """Listens; `buffer_size` is that of its receive buffer in bytes."""
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        if port:
            # A test may have reserved the port.
            receiver.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if buffer_size is not None:
            receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_size)
        receiver.bind((host, port))
        self.port: int = receiver.getsockname()[1]
        super().__init__(receiver, f"udp://127.0.0.1:{self.port}")

    def overflows(self) -> int:
        """How many datagrams the kernel has dropped because the buffer was full."""
        inode = str(os.fstat(self._socket.fileno()).st_ino)
        rows = [line.split() for line in Path("/proc/net/udp").read_text().splitlines()]
        (drops,) = [int(row[12]) for row in rows if row[9] == inode]
        return drops

    def _stop(self) -> None:
        # A connected socket receives only from its peer; the datagrams of others are refused.
        self._socket.connect(DISCARD)
        self._read()
        self._socket.close()


class UnixDatagrams(Datagrams):
    """A receiver of datagrams at a path."""

    def __init__(self, path: Path) -> None:
        """Listens."""
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        receiver.bind(str(path))
        super().__init__(receiver, f"unixgram://{path}")

    def _stop(self) -> None:
        self._socket.shutdown(socket.SHUT_RD)
        self._read()
        self._socket.close()


class UnixStream(Agent):
    """A receiver of frames at a path."""

    def __init__(self, path: Path) -> None:
        """Listens."""
        super().__init__(f"unixstream://{path}")
        self.partial_frames = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._listener.setblocking(False)
        self._connections: dict[socket.socket, bytes] = {}

    def _read(self) -> None:
        for connection in self._accepted():
            self._connections[connection] = b""
        for connection in list(self._connections):
            with suppress(BlockingIOError):
                while data := connection.recv(65536):
                    self._connections[connection] = self._take_frames(self._connections[connection] + data)
                # The connection has ended, perhaps within a frame.
                self.partial_frames += bool(self._connections.pop(connection))
                connection.close()

    def read_exactly(self, length: int) -> None:
        """Reads so many bytes of its only connection, and no more."""
        (connection,) = self._accepted()
        data = connection.recv(length)
        assert len(data) == length
        self._connections[connection] = self._take_frames(data)

    def _stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._read()
        for connection in self._connections:
            connection.shutdown(socket.SHUT_RD)
        self._read()
        self._listener.close()

    def _accepted(self) -> Iterator[socket.socket]:
        while True:
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                # The listener has been shut down, and no connection is waiting.
                if error.errno == errno.EINVAL:
                    return
                raise
            connection.setblocking(False)
            yield connection

    def _take_frames(self, data: bytes) -> bytes:
        """Keeps whole frames; returns the rest, which begins the next."""
        while len(data) >= LENGTH.size:
            (length,) = LENGTH.unpack_from(data)
            assert 0 < length <= MAX_PACKET, "an Agent would close the connection here"
            end = LENGTH.size + length
            if len(data) < end:
                break
            self._keep(data[LENGTH.size : end])
            data = data[end:]
        return data


UNIX_AGENTS: dict[str, Callable[[Path], Agent]] = {"unixgram": UnixDatagrams, "unixstream": UnixStream}


class Address:
    """An address at which one receiver after the other can listen."""

    def __init__(self, transport: str, folder: Path) -> None:
        """No receiver listens yet."""
        self.transport = transport
        self.path = folder / "dsd.socket"
        self.url = f"{transport}://{self.path}"
        self._reservation = ExitStack()
        if transport == "udp":
            self.port = self._reservation.enter_context(reserved_udp_port())
            self.url = f"udp://127.0.0.1:{self.port}"

    def open(self) -> Agent:
        """A receiver."""
        return Udp(self.port) if self.transport == "udp" else UNIX_AGENTS[self.transport](self.path)

    def __enter__(self) -> Self:
        """Returns the address."""
        return self

    def __exit__(self, *_: object) -> None:
        """Releases a reserved port."""
        self._reservation.close()
