"""Asks one library where it sends or what it sends, in a separate process for each environment.

The first argument is the question. Standard input has the environments as JSON, each with its variables and what else
exists there. The answers are printed as JSON, in the same order.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_SOCKET = Path("/var/run/datadog/dsd.socket")


def our_address(_: dict[str, Any]) -> str:
    """Where we send."""
    from runtime_metrics import RuntimeMetrics

    RuntimeMetrics.enable()
    return str(RuntimeMetrics.status()["address"])


def ddtraces_address(_: dict[str, Any]) -> str:
    """Where ddtrace sends according to its settings; and where its client sends, if that is another address."""
    settings = importlib.import_module("ddtrace.internal.settings._agent")
    clients = importlib.import_module("ddtrace.internal.dogstatsd")

    def address() -> str:
        client = clients.get_dogstatsd_client(url)
        if client.socket_path is not None:
            return f"unix://{client.socket_path}"
        host = f"[{client.host}]" if ":" in client.host else client.host
        return f"udp://{host}:{client.port}"

    url = importlib.reload(settings).config.dogstatsd_url
    sent = address()
    # Its client reads these again, whatever the URL is.
    for name in ("DD_AGENT_HOST", "DD_DOGSTATSD_PORT"):
        os.environ.pop(name, None)
    resolved = address()
    return resolved if resolved == sent else f"{resolved}, but sends to {sent}"


def our_lines(_: dict[str, Any]) -> list[str]:
    """What we send in one flush, as gauges."""
    from runtime_metrics import RuntimeMetrics

    with closing(receiver()) as receiving:
        RuntimeMetrics.enable(wire_type="gauge")
        assert RuntimeMetrics.flush()
        return received(receiving)


def datadogpys_lines(environment: dict[str, Any]) -> list[str]:
    """What datadogpy sends for the same gauges, with the same constant tags."""
    with closing(receiver()) as receiving:
        datadog = importlib.import_module("datadog")
        datadog.initialize(statsd_constant_tags=environment["tags"], hostname_from_config=False)
        for name, value in environment["gauges"]:
            datadog.statsd.gauge(name, value)
        return received(receiving)


def our_flush(environment: dict[str, Any]) -> bool:
    """Whether a flush was sent."""
    from runtime_metrics import RuntimeMetrics

    RuntimeMetrics.enable(wire_type=environment["wire_type"])
    return RuntimeMetrics.flush()


def our_service(environment: dict[str, Any]) -> str:
    """Our service in a program with this command line, in this folder."""
    os.chdir(environment["folder"])
    sys.orig_argv = environment["command"]
    (line, *_) = our_lines(environment)
    (service,) = (tag for tag in line.split("|#")[1].split(",") if tag.startswith("service:"))
    return service.removeprefix("service:")


def ddtraces_service(environment: dict[str, Any]) -> str:
    """The service that ddtrace infers there."""
    os.chdir(environment["folder"])
    inference = importlib.import_module("ddtrace.internal.settings._inferred_base_service")
    return inference.detect_service(environment["command"][1:]) or "none"


def receiver() -> socket.socket:
    """Starts to receive, and sets the variable for its address."""
    receiving = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiving.bind(("127.0.0.1", 0))
    receiving.setblocking(False)
    os.environ["DD_DOGSTATSD_URL"] = f"udp://127.0.0.1:{receiving.getsockname()[1]}"
    return receiving


def received(receiving: socket.socket) -> list[str]:
    """The lines that have arrived: on one host, what is sent has arrived."""
    payload = b""
    while True:
        try:
            payload += receiving.recv(65536)
        except BlockingIOError:
            return payload.decode().splitlines()


def set_up(environment: dict[str, Any]) -> None:
    """Sets up this process with its variables and what else exists in the environment."""
    os.environ.update(environment["variables"])
    if environment.get("socket"):
        DEFAULT_SOCKET.parent.mkdir(exist_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as agent:
            DEFAULT_SOCKET.unlink(missing_ok=True)
            agent.bind(str(DEFAULT_SOCKET))
    for name, text in environment.get("proc", {}).items():
        with tempfile.NamedTemporaryFile("w", delete=False) as file:
            file.write(text)
        subprocess.run(["mount", "--bind", file.name, f"/proc/{os.getpid()}/{name}"], check=True)
        os.unlink(file.name)


def in_a_child(question: Callable[[dict[str, Any]], object], environment: dict[str, Any]) -> object:
    """The answer of a process that ends without sending anything else."""
    reading, writing = os.pipe()
    if child := os.fork():
        os.close(writing)
        with open(reading) as answers:
            text = answers.read()
        assert os.waitpid(child, 0)[1] == 0, environment
        return json.loads(text)
    status = 1
    try:
        set_up(environment)
        try:
            answer = question(environment)
        except Exception as error:
            answer = f"raises {type(error).__name__}"
        os.write(writing, json.dumps(answer).encode())
        status = 0
    finally:
        os._exit(status)


# For each question, the module to import before the first fork, and the function that answers it.
QUESTIONS: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "our address": ("runtime_metrics", our_address),
    "ddtrace's address": ("ddtrace.internal.dogstatsd", ddtraces_address),
    "our lines": ("runtime_metrics", our_lines),
    "datadogpy's lines": ("requests", datadogpys_lines),
    "our flush": ("runtime_metrics", our_flush),
    "our service": ("runtime_metrics", our_service),
    "ddtrace's service": ("ddtrace.internal.dogstatsd", ddtraces_service),
}

if __name__ == "__main__":
    module, question = QUESTIONS[sys.argv[1]]
    importlib.import_module(module)
    print(json.dumps([in_a_child(question, environment) for environment in json.load(sys.stdin)]))
