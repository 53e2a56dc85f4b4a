"""A load like that of wrk: some connections, each of which sends its next request once it has the previous response."""

from __future__ import annotations

import select
import socket
import time

KEEP_ALIVE = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
CLOSE = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

# Seconds without a response after which a server counts as dead.
RESPONSE_TIMEOUT = 30


class Load:
    """The clients of one server, whose responses all have the same length."""

    def __init__(self, address: tuple[str, int], connections: int, keep_alive: bool) -> None:
        """Sends one request, on a separate connection, to learn the response."""
        self._address = address
        self._connections = connections
        self._keep_alive = keep_alive
        with socket.create_connection(address, RESPONSE_TIMEOUT) as first:
            first.sendall(CLOSE)
            self.body = b"".join(iter(lambda: first.recv(65536), b"")).partition(b"\r\n\r\n")[2]
        self._kept: list[socket.socket] = []
        # Responses on kept connections have other headers than the one above.
        self._length = 0

    def run(self, seconds: float) -> tuple[int, float]:
        """Sends requests for so long; returns the number of responses, all of them 200, and the seconds it took."""
        began = time.perf_counter()
        send = self._run_on_kept_connections if self._keep_alive else self._run_on_new_connections
        responses = send(began + seconds)
        return responses, time.perf_counter() - began

    def _run_on_kept_connections(self, deadline: float) -> int:
        while len(self._kept) < self._connections:
            self._kept.append(self._connected())
        if not self._length:
            self._length = self._response_length(self._kept[0])
        clients = {client.fileno(): client for client in self._kept}
        received = dict.fromkeys(clients, 0)
        sent, responses = 0, 0
        with select.epoll() as poller:
            for number, client in clients.items():
                poller.register(number, select.EPOLLIN)
                client.send(KEEP_ALIVE)
                sent += 1
            while responses < sent:
                for number in self._ready(poller):
                    part = clients[number].recv(65536)
                    if not received[number]:
                        check(part)
                    received[number] += len(part)
                    if received[number] < self._length:
                        continue
                    responses += 1
                    received[number] = 0
                    if time.perf_counter() < deadline:
                        clients[number].send(KEEP_ALIVE)
                        sent += 1
        return responses

    def _run_on_new_connections(self, deadline: float) -> int:
        clients: dict[int, socket.socket] = {}
        received: dict[int, int] = {}
        responses = 0
        with select.epoll() as poller:
            while clients or time.perf_counter() < deadline:
                while len(clients) < self._connections and time.perf_counter() < deadline:
                    client = self._connected()
                    client.send(CLOSE)
                    number = client.fileno()
                    poller.register(number, select.EPOLLIN)
                    clients[number], received[number] = client, 0
                for number in self._ready(poller):
                    part = clients[number].recv(65536)
                    if not received[number]:
                        check(part)
                    received[number] += len(part)
                    if not part:
                        clients.pop(number).close()
                        responses += 1
        return responses

    def _ready(self, poller: select.epoll) -> list[int]:
        events = poller.poll(RESPONSE_TIMEOUT)
        if not events:
            raise TimeoutError(f"no response for {RESPONSE_TIMEOUT} s")
        return [number for number, _ in events]

    def _connected(self) -> socket.socket:
        client = socket.socket(socket.AF_INET)
        client.connect(self._address)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client

    def _response_length(self, client: socket.socket) -> int:
        client.send(KEEP_ALIVE)
        response = b""
        while not response.endswith(self.body):
            response += client.recv(65536)
        return len(response)

    def __enter__(self) -> Load:
        """Returns the load."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the connections."""
        for client in self._kept:
            client.close()


def check(response: bytes) -> None:
    """Raises an exception for an error response, which would cost less."""
    if not response.startswith(b"HTTP/1.1 200"):
        raise ValueError(f"not a response with status 200: {response[:200]!r}")
