"""Runs the function on this machine, with the real runtime and a Runtime API; prints what the extension would get.

pip install runtime-metrics awslambdaric
python invoke.py
"""

from __future__ import annotations

import json
import os
import queue
import socket
import subprocess
import sys
import threading
from pathlib import Path

from runtime_api import Invocation, RuntimeApi

HERE = Path(__file__).resolve().parent
ORDERS = [{"value": 12.45}, {"value": 3.2}, {"value": 7}]


def main() -> None:
    """Sends three orders, and prints each response after the metrics of its invocation."""
    handler = sys.argv[1] if len(sys.argv) > 1 else "function.handler"
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("127.0.0.1", 0))
    events: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
    listener = socket.create_server(("127.0.0.1", 0))
    api = RuntimeApi(listener, "coffee", lambda what, _, body: events.put((what, body)))
    threading.Thread(target=api.serve_forever, daemon=True).start()
    function = {
        "AWS_LAMBDA_FUNCTION_NAME": "coffee",
        "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{listener.getsockname()[1]}",
        "DD_DOGSTATSD_URL": f"udp://127.0.0.1:{receiver.getsockname()[1]}",
        "_HANDLER": handler,
    }
    runtime = subprocess.Popen(
        [sys.executable, "-m", "awslambdaric", handler], cwd=HERE, env=os.environ | function
    )
    try:
        for number, order in enumerate(ORDERS):
            api.invocations.put(Invocation(f"order-{number}", json.dumps(order).encode()))
            what, body = events.get(timeout=30)
            while what not in ("response", "error", "init error"):
                what, body = events.get(timeout=30)
            # Its metrics have arrived: they were sent before the response.
            print(*lines(receiver), sep="\n")
            print(f"{what}: {body.decode()}\n", flush=True)
            if what == "init error":
                sys.exit(1)
    finally:
        runtime.kill()
        runtime.wait()


def lines(receiver: socket.socket) -> list[str]:
    """The lines that have arrived."""
    arrived: list[str] = []
    while True:
        try:
            arrived += receiver.recv(8192, socket.MSG_DONTWAIT).decode().splitlines()
        except BlockingIOError:
            return arrived


if __name__ == "__main__":
    main()
