"""The cost of a request under Gunicorn, as far as it can be counted: system calls and datagrams."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
from serving import OUR_ERRORS, SERVERS, TIMEOUT, Datagrams, ask, need

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: strace, Unix datagram sockets"),
]

HERE = Path(__file__).parent
REQUESTS = 50
# When the allocator asks for memory depends on what was allocated before.
OF_THE_ALLOCATOR = ("brk", "madvise", "mmap", "mremap", "munmap")
OURS = "--config python:runtime_metrics.gunicorn"


def system_calls(folder: Path, options: str) -> Counter[str]:
    """The system calls of a sync worker's thread for all the requests, by name.

    They are all there before the first of them is accepted, so that the worker never has to wait for one: how often it
    would is a matter of chance.
    """
    folder.mkdir()
    gate, trace = folder / "gate", folder / "trace"
    os.mkfifo(gate)
    with (
        ExitStack() as clients,
        socket.create_server(("127.0.0.1", 0), backlog=2 * REQUESTS) as listener,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
    ):
        receiver.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{receiver.getsockname()[1]}"
        command = [
            *(
                "strace",
                "-D",
                "-f",
                "-qq",
                "-o",
                str(trace),
                str(SERVERS / "bin" / "gunicorn"),
                "--no-control-socket",
            ),
            *(
                "--bind",
                f"fd://{listener.fileno()}",
                "marking:wsgi",
                *options.format(address=address).split(),
            ),
        ]
        server = subprocess.Popen(
            command,
            cwd=HERE / "servers",
            env=os.environ
            | {
                "GATE": str(gate),
                "DD_DOGSTATSD_URL": f"udp://{address}",
                "DD_RUNTIME_METRICS_INTERVAL": "3600",
            },
            pass_fds=[listener.fileno()],
            stderr=subprocess.PIPE,
        )
        try:
            asked = [
                clients.enter_context(socket.create_connection(listener.getsockname(), TIMEOUT))
                for _ in range(REQUESTS + 2)
            ]
            for client, path in zip(asked, ["/begin", *["/"] * REQUESTS, "/end"], strict=True):
                client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                client.shutdown(socket.SHUT_WR)
            gate.write_text("")
            answers = [client.makefile("rb").read() for client in asked]
        finally:
            server.terminate()
            _, complaints = server.communicate(timeout=TIMEOUT)
    assert [answer[:15] for answer in answers] == [b"HTTP/1.1 200 OK"] * len(asked), complaints
    calls = re.findall(r"^(\d+) +(\w+)\(", trace.read_text(), re.MULTILINE)
    begin, end = (place for place, (_, name) in enumerate(calls) if name == "getsid")
    serving = calls[begin][0]
    return Counter(
        name for thread, name in calls[begin + 1 : end] if thread == serving and name not in OF_THE_ALLOCATOR
    )


CLASSES = {
    "sync": ("sync application:wsgi", "gunicorn"),
    "gthread": ("gthread --threads 2 application:wsgi", "gunicorn"),
    "gevent": ("gevent application:wsgi", "gunicorn gevent packaging"),
    "asgi": ("asgi application:asgi", "gunicorn"),
    "uvicorn": ("uvicorn_worker.UvicornWorker application:asgi", "gunicorn uvicorn-worker"),
}


@pytest.mark.parametrize("name", CLASSES)
def test_the_number_of_packets_does_not_depend_on_the_number_of_requests(name: str, tmp_path: Path) -> None:
    worker_class, needs = CLASSES[name]
    need(*needs.split())
    payloads = Datagrams(tmp_path / "agent", lambda payload, _: payload)
    listening = tmp_path / "http"
    command = f"gunicorn --no-control-socket --bind unix:{listening} {OURS} --worker-class {worker_class}"
    settings = {"DD_DOGSTATSD_URL": payloads.url, "DD_RUNTIME_METRICS_INTERVAL": "3600"}
    application = {"ENABLE_IN": "", "BALLASTS": str(tmp_path / "ballasts")}
    with subprocess.Popen(
        [SERVERS / "bin" / "python", "-m", *command.split()],
        cwd=HERE / "servers",
        env=os.environ | settings | application,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stderr is not None
            while "Booting worker" not in (line := server.stderr.readline()):
                assert line
            statuses = {ask(listening)[0] for _ in range(REQUESTS)}
            before = [*payloads]
        finally:
            server.terminate()
            _, stderr = server.communicate(timeout=TIMEOUT)
            payloads.stop()
    assert (statuses, before, OUR_ERRORS.findall(stderr)) == ({200}, [], [])
    lines = "".join(payloads).splitlines()
    assert [line for line in lines if line.startswith(f"gunicorn.requests:{REQUESTS}|c|")] != []
    assert [line for line in lines if line.startswith(f"gunicorn.request.status.200:{REQUESTS}|c|")] != []
    # The final reports of worker and master, each too long for one packet.
    assert len(payloads) <= 6


@pytest.mark.measures
def test_a_request_costs_no_system_call(tmp_path: Path) -> None:
    need("gunicorn")
    if not shutil.which("strace"):
        pytest.skip("strace is not installed")
    plain = system_calls(tmp_path / "plain", "")
    assert system_calls(tmp_path / "ours", OURS) == plain
    # The method works: it counts what Gunicorn's statsd client sends.
    theirs = system_calls(tmp_path / "theirs", "--statsd-host {address}")
    assert theirs - plain == Counter(sendto=3 * (REQUESTS + 1))


@pytest.mark.measures
def test_the_benchmark_counts_what_each_request_sends() -> None:
    need("gunicorn")
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("a server and its clients need a core each")
    bench = HERE.parent / "benches" / "per_request.py"
    options = ["sync", "--rounds", "2", "--seconds", "0.2"]
    done = subprocess.run(
        [sys.executable, bench, SERVERS / "bin" / "python", *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    datagrams = dict(re.findall(r"^\| sync \| (.+?) \| [\d.]+ \| ([\d.]+) \|", done.stdout, re.MULTILINE))
    assert datagrams.keys() == {"plain", "plain again", "--statsd-host", "ours"}
    # On a busy machine, the receiver may lose some.
    assert datagrams["plain"] == "0"
    assert float(datagrams["ours"]) < 1 < float(datagrams["--statsd-host"]) < 4
