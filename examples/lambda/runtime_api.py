"""The Runtime API of AWS Lambda for one environment: hands out events one by one, and reports what comes back."""

from __future__ import annotations

import queue
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

VERSION = "/2018-06-01/runtime"
ARN = "arn:aws:lambda:eu-central-1:123456789012:function:"


class Invocation(NamedTuple):
    """An event for the function."""

    request: str
    event: bytes
    # Seconds from now.
    deadline: float = 60


class RuntimeApi(ThreadingHTTPServer):
    """Serves the requests of a runtime; `record` is called with each event before the response.

    The events are "init error", "restore", "restore error", "next", "invoke", "response" and "error". `record` also
    gets the id of the invocation, for the last three, and the body, empty if there is none.
    """

    daemon_threads = True

    def __init__(self, listener: socket.socket, name: str, record: Callable[[str, str, bytes], None]) -> None:
        """Takes over a bound socket; `name` is the function's name."""
        super().__init__(listener.getsockname(), Requests, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.socket.listen()
        self.arn = ARN + name
        self.record = record
        self.invocations: queue.SimpleQueue[Invocation] = queue.SimpleQueue()

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignores the broken connection of a runtime that was killed."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class Requests(BaseHTTPRequestHandler):
    """The requests of one connection."""

    protocol_version = "HTTP/1.1"
    # Headers and body are sent together: apart, each response would wait for an acknowledgement delayed by 40 ms.
    wbufsize = -1
    disable_nagle_algorithm = True
    server: RuntimeApi

    def do_GET(self) -> None:
        """Responds with the next event, or at the restore of a snapshot."""
        if self.path == f"{VERSION}/restore/next":
            self.server.record("restore", "", b"")
            self.respond(200, b"")
            return
        self.server.record("next", "", b"")
        request, event, deadline = self.server.invocations.get()
        self.server.record("invoke", request, event)
        self.respond(
            200,
            event,
            {
                "Lambda-Runtime-Aws-Request-Id": request,
                "Lambda-Runtime-Deadline-Ms": str(int((time.time() + deadline) * 1000)),
                "Lambda-Runtime-Invoked-Function-Arn": self.server.arn,
                "Lambda-Runtime-Trace-Id": "Root=1-5e1b4151-5ac6c58f5ad3a2c9b8f9e5d1;Sampled=0",
            },
        )

    def do_POST(self) -> None:
        """Takes a response or an error."""
        what = self.path.removeprefix(f"{VERSION}/").split("/")
        body = self.body()
        if what[0] == "invocation":
            self.server.record(what[2], what[1], body)
        else:
            self.server.record(" ".join(what), "", body)
        self.respond(202, b"")

    def body(self) -> bytes:
        """The whole body, which may come in chunks."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            """Trailers are ignored."""
        return b"".join(chunks)

    def respond(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        """Sends a response."""
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Logs nothing."""
