"""Starts Gunicorn, sends it requests, and shows what it reports: `python run.py`, until Ctrl-C or for --seconds."""

from __future__ import annotations

import argparse
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

HERE = Path(__file__).resolve().parent
SETTINGS = {"DD_SERVICE": "demo", "DD_RUNTIME_METRICS_INTERVAL": "1"}
QUIET_SECONDS, BUSY_SECONDS = 3, 3


def main() -> int:
    """Starts everything, and stops it in an order in which no metric is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="default: until Ctrl-C")
    seconds = parser.parse_args().seconds

    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())

    with (
        tempfile.TemporaryDirectory() as folder,
        open(f"{folder}/log", "w+") as log,
        socket.create_server(("127.0.0.1", 0)) as listener,
        # In sessions of their own: Ctrl-C reaches only this program, which stops them one after the other.
        subprocess.Popen(
            [sys.executable, *f"-m runtime_metrics watch --unix {folder}/agent --only gunicorn.*".split()],
            start_new_session=True,
        ) as watch,
        subprocess.Popen(
            [sys.executable, *f"-m gunicorn --bind fd://{listener.fileno()} app:app".split()],
            cwd=HERE,
            env=os.environ | {"DD_DOGSTATSD_URL": f"unix://{folder}/agent", **SETTINGS},
            pass_fds=[listener.fileno()],
            stderr=log,
            start_new_session=True,
        ) as gunicorn,
    ):
        clients = [
            threading.Thread(target=send_requests, args=(listener.getsockname(), number, over))
            for number in range(4)
        ]
        for client in clients:
            client.start()
        deadline = time.monotonic() + seconds
        while not over.wait(0.1):
            if time.monotonic() >= deadline or gunicorn.poll() is not None or watch.poll() is not None:
                over.set()
        if gunicorn.poll() is not None:
            # Nothing will respond to the waiting clients.
            listener.close()
        for client in clients:
            client.join()
        gunicorn.terminate()
        status = gunicorn.wait()
        # Its final flush has arrived.
        watch.terminate()
        watch.wait()
        if status:
            log.seek(0)
            print(log.read(), file=sys.stderr)
    return status


def send_requests(address: tuple[str, int], number: int, over: threading.Event) -> None:
    """One client: number 0 sends requests all the time, the others only in the busy phases."""
    began = time.monotonic()
    paths = ["/", "/", "/computes", "/nowhere", "/", "/raises"] if number == 0 else ["/waits"]
    sent = 0
    while not over.wait(0.02):
        is_busy = (time.monotonic() - began) % (QUIET_SECONDS + BUSY_SECONDS) >= QUIET_SECONDS
        if number == 0 or is_busy:
            request(address, paths[sent % len(paths)])
            sent += 1


def request(address: tuple[str, int], path: str) -> None:
    """One request on a new connection."""
    with (
        suppress(OSError, http.client.HTTPException),
        closing(http.client.HTTPConnection(*address, timeout=30)) as connection,
    ):
        connection.request("GET", path)
        connection.getresponse().read()


if __name__ == "__main__":
    sys.exit(main())
