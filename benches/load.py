"""A load as wrk makes it: some connections, on each the next request as soon as the answer before it has come."""

from __future__ import annotations

import select
import socket
import time

KEEP_ALIVE = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
CLOSE = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

# Seconds without any answer after which a server counts as dead.
PATIENCE = 30


class Load:
    """The clients of one server, whose answers are all equally long."""

    def __init__(self, address: tuple[str, int], connections: int, keep_alive: bool) -> None:
        """Asks once, on a connection of its own, to know what an answer is like."""
        self._address = address
        self._connections = connections
        self._keep_alive = keep_alive
        with socket.create_connection(address, PATIENCE) as first:
            first.sendall(CLOSE)
            self.body = b"".join(iter(lambda: first.recv(65536), b"")).partition(b"\r\n\r\n")[2]
        self._lasting: list[socket.socket] = []
        # Answers on connections that last have other headers than the one above.
        self._length = 0

    def ask(self, seconds: float) -> tuple[int, float]:
        """Asks for so long; how many requests were answered, all of them with 200, and the seconds it took."""
        began = time.perf_counter()
        asking = self._ask_on_lasting_connections if self._keep_alive else self._ask_on_new_connections
        answered = asking(began + seconds)
        return answered, time.perf_counter() - began

    def _ask_on_lasting_connections(self, deadline: float) -> int:
        while len(self._lasting) < self._connections:
            self._lasting.append(self._connected())
        if not self._length:
            self._length = self._length_of_an_answer(self._lasting[0])
        clients = {client.fileno(): client for client in self._lasting}
        received = dict.fromkeys(clients, 0)
        asked, answered = 0, 0
        with select.epoll() as poller:
            for number, client in clients.items():
                poller.register(number, select.EPOLLIN)
                client.send(KEEP_ALIVE)
                asked += 1
            while answered < asked:
                for number in self._ready(poller):
                    part = clients[number].recv(65536)
                    if not received[number]:
                        check(part)
                    received[number] += len(part)
                    if received[number] < self._length:
                        continue
                    answered += 1
                    received[number] = 0
                    if time.perf_counter() < deadline:
                        clients[number].send(KEEP_ALIVE)
                        asked += 1
        return answered

    def _ask_on_new_connections(self, deadline: float) -> int:
        clients: dict[int, socket.socket] = {}
        received: dict[int, int] = {}
        answered = 0
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
                        answered += 1
        return answered

    def _ready(self, poller: select.epoll) -> list[int]:
        events = poller.poll(PATIENCE)
        if not events:
            raise TimeoutError(f"no answer for {PATIENCE} s")
        return [number for number, _ in events]

    def _connected(self) -> socket.socket:
        client = socket.socket(socket.AF_INET)
        client.connect(self._address)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client

    def _length_of_an_answer(self, client: socket.socket) -> int:
        client.send(KEEP_ALIVE)
        answer = b""
        while not answer.endswith(self.body):
            answer += client.recv(65536)
        return len(answer)

    def __enter__(self) -> Load:
        """Gives itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Lets the connections go."""
        for client in self._lasting:
            client.close()


def check(answer: bytes) -> None:
    """An answer that is none would cost less than one."""
    if not answer.startswith(b"HTTP/1.1 200"):
        raise ValueError(f"not what was asked for: {answer[:200]!r}")
