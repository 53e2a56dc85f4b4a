"""Starts fresh processes of one subject, with its Python, its environment variables and the sink it sends to."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Host:
    """The virtual environment of a subject."""

    subject: str
    python: str
    sink: int

    def inside(self, measure: str) -> dict[str, float]:
        """Takes a measure of `inside.py` in a fresh process."""
        figures: dict[str, float] = json.loads(self.start(self.command(measure)).stdout.splitlines()[-1])
        return figures

    def command(self, measure: str, *arguments: str) -> list[str]:
        """The command that takes a measure of `inside.py`."""
        return [self.python, str(HERE / "inside.py"), self.subject, measure, *arguments]

    def startup_cpu_ms(self, subject: str) -> float:
        """CPU of a process that enables the subject and exits at once."""
        before = cpu_of_children()
        self.start([self.python, str(HERE / "footprint.py"), subject])
        return (cpu_of_children() - before) * 1e3

    def added_memory_kb(self, subject: str) -> float:
        """Resident memory that import and enable add to a process."""
        return float(self.start([self.python, str(HERE / "footprint.py"), subject, "--memory"]).stdout)

    def packages(self) -> dict[str, str]:
        """The versions of the subject's Python and of the packages installed there."""
        code = """
import importlib.metadata, json, platform
versions = {found.metadata["Name"]: found.version for found in importlib.metadata.distributions()}
versions["implementation"] = f"{platform.python_implementation()} {platform.python_version()}"
print(json.dumps(versions))
"""
        versions: dict[str, str] = json.loads(self.start([self.python, "-c", code]).stdout)
        return versions

    def start(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end; if it fails, the end of its stderr is in the exception."""
        variables = environment(DD_AGENT_HOST="127.0.0.1", DD_DOGSTATSD_PORT=str(self.sink))
        done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr[-2000:]}")
        return done


def environment(**settings: str) -> dict[str, str]:
    """The caller's variables with these settings, and without others that would configure a subject or its Python."""
    foreign = ("DD_", "_DD_", "GUNICORN_", "OTEL_", "PYTHON", "RUNTIME_METRICS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**kept, **settings, "PYTHONHASHSEED": "0"}


@contextmanager
def exclusive(script: str) -> Iterator[None]:
    """Exits if the script is already running elsewhere: two runs would disturb each other."""
    with open(script) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit("Another run is in progress; the two would disturb each other.")
        yield


def cpu_of_children() -> float:
    """User and system time, in seconds, of the child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def start_sink() -> int:
    """Receives datagrams until this process ends, as an Agent would; returns the port."""
    sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sink.bind(("127.0.0.1", 0))
    port: int = sink.getsockname()[1]

    def receive() -> None:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # ticks are measured on the last core
        while True:
            sink.recv(65536)

    threading.Thread(target=receive, daemon=True).start()
    return port
