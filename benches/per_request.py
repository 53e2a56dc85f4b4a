"""What metrics add to the cost of a request under Gunicorn: its own --statsd-host, and runtime_metrics.gunicorn.

    python benches/per_request.py SERVERS_PYTHON [--rounds 30] [--seconds 0.5] [--json FILE] [CLASS ...]

SERVERS_PYTHON is that of a virtual environment with Gunicorn, its workers and this library. Linux only.
benches/README.md explains each figure.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, quantiles
from typing import TYPE_CHECKING

from host import environment, exclusive
from load import Load
from table import amount, heading, line, met, proportion

if TYPE_CHECKING:
    from collections.abc import Iterator
    from ctypes import c_int64

    Figures = dict[str, float]
    Results = dict[str, dict[str, list[Figures]]]  # by class, then by subject, round after round

HERE = Path(__file__).parent
MAX_RATIO = 1 / 3
CONNECTIONS = 32
# Ten times as often as by default: to our disadvantage, and so that every round contains flushes of ours.
INTERVAL_SECONDS = 1
# Plain Gunicorn twice: what the second one seems to add is the error of the method.
PLAIN, AGAIN, STATSD, OURS = "plain", "plain again", "--statsd-host", "ours"


@dataclass(frozen=True)
class Class:
    """A worker class: its options, and whether Gunicorn's own metrics count its requests."""

    options: str
    keep_alive: bool = True
    counted_by_gunicorn: bool = True


CLASSES = {
    "sync": Class("--worker-class sync hello:wsgi", keep_alive=False),
    "gthread": Class("--worker-class gthread --threads 4 hello:wsgi"),
    "gevent": Class("--worker-class gevent hello:wsgi"),
    "asgi": Class("--worker-class asgi hello:asgi", counted_by_gunicorn=False),
    "uvicorn": Class("--worker-class uvicorn_worker.UvicornWorker hello:asgi", counted_by_gunicorn=False),
}


def main() -> None:
    """Takes the measures and prints the report."""
    chosen = arguments()
    with exclusive(__file__):
        load_before = os.getloadavg()[0]
        results = {name: measured(name, chosen) for name in chosen.classes or CLASSES}
    context = (
        f"{platform.python_implementation()} {platform.python_version()}, {platform.system()} "
        f"{platform.release()} {platform.machine()}, {os.cpu_count()} CPUs, medians of {chosen.rounds} rounds of "
        f"blocks of {chosen.seconds:g} s, load average {load_before:.2f} before and {os.getloadavg()[0]:.2f} after."
    )
    print("\n".join([*report(results), "", context]))
    if chosen.json:
        chosen.json.write_text(json.dumps({"context": context, "results": results}, indent=2))


def arguments() -> argparse.Namespace:
    """Parses the command line."""
    verbatim = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=verbatim)
    parser.add_argument("python", metavar="SERVERS_PYTHON", type=os.path.abspath)
    parser.add_argument("classes", metavar="CLASS", nargs="*", help=f"default: {', '.join(CLASSES)}")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=0.5, help="of a block (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="the figures of each round")
    chosen = parser.parse_intermixed_args()
    if unknown := sorted(set(chosen.classes) - set(CLASSES)):
        parser.error(f"no such class: {', '.join(unknown)}; known are {', '.join(CLASSES)}")
    if sys.platform != "linux":
        parser.error("the measures read clocks of other processes and pin them to cores: Linux only")
    cores = os.sched_getaffinity(0)
    if len(cores) < 2:
        parser.error("a server and its clients need a core each")
    chosen.clients_core, chosen.server_core = min(cores), max(cores)
    return chosen


def measured(name: str, chosen: argparse.Namespace) -> dict[str, list[Figures]]:
    """The figures of every round, by subject: each round sends a block of requests to one subject after the other."""
    subjects = [PLAIN, STATSD, AGAIN, OURS] if CLASSES[name].counted_by_gunicorn else [PLAIN, OURS, AGAIN]
    rounds: dict[str, list[Figures]] = {subject: [] for subject in subjects}
    with ExitStack() as stack:
        servers = {
            subject: stack.enter_context(serving(subject, CLASSES[name], chosen)) for subject in subjects
        }
        for number in range(chosen.rounds + 1):
            # Each begins in turn. --statsd-host and ours both follow a plain one.
            for subject in sorted(
                subjects, key=lambda subject: (subjects.index(subject) + number) % len(subjects)
            ):
                figures = servers[subject].block(chosen.seconds)
                # The first block warms up.
                if figures is not None:
                    rounds[subject].append(figures)
            last = {subject: round(rounds[subject][-1]["worker_us"], 1) for subject in subjects if number}
            print(f"{name}, round {number}: {last}", file=sys.stderr, flush=True)
    return rounds


class Server:
    """A Gunicorn with one worker, its clients and its receiver."""

    def __init__(self, master: int, load: Load, datagrams: c_int64) -> None:
        """Takes a server that serves requests."""
        self._load = load
        self._datagrams = datagrams
        self._clocks = {"worker": clock_of(int(load.body)), "master": clock_of(master)}
        self._before: Figures | None = None

    def block(self, seconds: float) -> Figures | None:
        """Sends requests for so long; returns the figures from the previous block's start to this one's.

        What a block leaves to be sent is sent some time after it, and belongs to its requests.
        """
        before, now = self._before, self._used()
        requests, took = self._load.run(seconds)
        self._before = now | {"requests": requests, "took": took}
        if before is None:
            return None
        used = {what: now[what] - before[what] for what in now}
        return {
            "worker_us": used["worker"] * 1e6 / before["requests"],
            "master_ms_a_minute": used["master"] * 6e4 / used["time"],
            "requests_a_second": before["requests"] / before["took"],
            "datagrams": used["datagrams"] / before["requests"],
        }

    def _used(self) -> Figures:
        cpu = {who: time.clock_gettime(clock) for who, clock in self._clocks.items()}
        return cpu | {"time": time.monotonic(), "datagrams": self._datagrams.value}


def clock_of(pid: int) -> int:
    """The CPU clock of a process and all its threads, in nanoseconds: clock_getcpuclockid(3)."""
    return (~pid << 3) | 2


@contextmanager
def serving(subject: str, worker_class: Class, chosen: argparse.Namespace) -> Iterator[Server]:
    """Runs a server on the last core; its clients and its receiver have the first."""
    os.sched_setaffinity(0, {chosen.clients_core})
    with (
        receiving() as (port, datagrams),
        tempfile.TemporaryDirectory() as folder,
        socket.create_server(("127.0.0.1", 0), backlog=64) as listener,
    ):
        options = {
            PLAIN: "",
            AGAIN: "",
            STATSD: f"--statsd-host 127.0.0.1:{port}",
            OURS: "--config python:runtime_metrics.gunicorn",
        }
        command = (
            f"{chosen.python} -m gunicorn --no-control-socket --workers 1 --keep-alive 600 --pythonpath {HERE}"
            f" --bind fd://{listener.fileno()} {options[subject]} {worker_class.options}"
        )
        os.sched_setaffinity(0, {chosen.server_core})
        errors = Path(folder, "errors")
        with errors.open("wb") as stderr:
            server = subprocess.Popen(
                command.split(),
                cwd=folder,
                env=environment(
                    DD_DOGSTATSD_URL=f"udp://127.0.0.1:{port}",
                    DD_RUNTIME_METRICS_INTERVAL=str(INTERVAL_SECONDS),
                ),
                pass_fds=[listener.fileno()],
                stderr=stderr,
            )
        os.sched_setaffinity(0, {chosen.clients_core})
        try:
            with Load(listener.getsockname(), CONNECTIONS, worker_class.keep_alive) as load:
                yield Server(server.pid, load, datagrams)
        except OSError as error:
            raise RuntimeError(f"{command}\n{errors.read_text()}") from error
        finally:
            server.terminate()
            server.wait()


@contextmanager
def receiving() -> Iterator[tuple[int, c_int64]]:
    """Receives datagrams in a separate process, as an Agent does; yields the port, and how many have arrived."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        bound.bind(("127.0.0.1", 0))
        datagrams = multiprocessing.RawValue("q", 0)
        receiver = multiprocessing.get_context("fork").Process(target=receive, args=(bound, datagrams))
        receiver.start()
        try:
            yield bound.getsockname()[1], datagrams
        finally:
            receiver.kill()
            receiver.join()


def receive(bound: socket.socket, datagrams: c_int64) -> None:
    """Reads until the process is killed."""
    while True:
        bound.recv(65536)
        datagrams.value += 1


def report(results: Results) -> Iterator[str]:
    """The table of the costs, and that of the other figures."""
    yield from heading(
        "",
        "CPU of a request, plain",
        "plain again adds",
        "--statsd-host adds",
        "ours adds",
        "ours / --statsd-host",
        "target",
        "met",
    )
    for name, rounds in results.items():
        plain = [figures["worker_us"] for figures in rounds[PLAIN]]
        added = {
            subject: [
                figures["worker_us"] - base for figures, base in zip(rounds[subject], plain, strict=True)
            ]
            for subject in rounds
        }
        cells = [with_spread(plain), *(with_spread(added.get(subject)) for subject in (AGAIN, STATSD, OURS))]
        if STATSD in added:
            ratio = median(added[OURS]) / median(added[STATSD])
            cells += [proportion(ratio), f"<= 1/{1 / MAX_RATIO:.0f}", met(ratio <= MAX_RATIO)]
        else:
            cells += [""] * 3
        yield line(name, *cells)
    yield ""
    yield from heading("", "", "requests/s", "datagrams of a request", "CPU of the master, ms a minute")
    for name, rounds in results.items():
        for subject, figures in rounds.items():
            what = ("requests_a_second", "datagrams", "master_ms_a_minute")
            yield line(
                name, subject, *(amount(mean(each[figure] for each in figures), "") for figure in what)
            )


def with_spread(values: list[float] | None) -> str:
    """The median and, in brackets, the interquartile range, in microseconds."""
    if values is None:
        return "does not count them"
    low, middle, high = quantiles(values, n=4)
    return f"{amount(middle, 'us')} ({amount(low, '')} to {amount(high, '')})"


if __name__ == "__main__":
    main()
