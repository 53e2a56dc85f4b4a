"""An HTTP server for what is no server by itself: it passes each request to a pool of processes."""

from __future__ import annotations

import signal
import socketserver
import sys
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def serve(path: str, answers: Callable[[], Iterable[str]]) -> None:
    """Answers every request at this socket with all the answers, until SIGTERM."""

    class Front(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = "".join(answers()).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_request(self, *_: object) -> None:
            pass

    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with socketserver.UnixStreamServer(path, Front) as server:
        server.serve_forever()
