"""The processes that `levels.py` looks at. Prints one JSON object.

python workloads.py LIBRARY WORKLOAD SECONDS
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING

from load import Load
from subjects import load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from subjects import Subject

    Figures = dict[str, float]

RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n"
# The first flush, ten seconds after the start, finds its address and its container, and is not counted. From then on
# ten seconds have one tick.
SETTLING_SECONDS = 11.5


def own_threads_cpu_ms(subject: Subject, seconds: float, work: Callable[[float], None]) -> float:
    """CPU time in ten seconds of the threads that the subject has started, while the process does its work."""
    before = set(os.listdir("/proc/self/task"))
    subject.enable()
    if set(os.listdir("/proc/self/task")) - before:  # not the subject that is no library
        work(SETTLING_SECONDS)
    began, used = time.monotonic(), threads_cpu_ns(before)
    work(seconds)
    return (threads_cpu_ns(before) - used) / 1e6 / (time.monotonic() - began) * 10


def threads_cpu_ns(others: set[str]) -> int:
    """CPU time of all threads but these; each has to exist as long as it is looked at."""
    tasks = set(os.listdir("/proc/self/task")) - others
    return sum(int(Path(f"/proc/self/task/{task}/schedstat").read_text().split()[0]) for task in tasks)


def idle(subject: Subject, seconds: float) -> Figures:
    """A process that waits."""
    return {"cpu_ms": own_threads_cpu_ms(subject, seconds, time.sleep)}


def busy(subject: Subject, seconds: float) -> Figures:
    """A process whose main thread computes, and looks for how long it did not."""
    longest: list[int] = []

    def work(seconds: float) -> None:
        longest.clear()
        for _ in range(round(seconds)):
            last = time.perf_counter_ns()
            end, most = last + 1_000_000_000, 0
            while last < end:
                now = time.perf_counter_ns()
                most = max(most, now - last)
                last = now
            longest.append(most)

    cpu = own_threads_cpu_ms(subject, seconds, work)
    *_, p99 = quantiles(longest, n=100, method="inclusive")
    return {"cpu_ms": cpu, "p50_us": median(longest) / 1e3, "p99_us": p99 / 1e3}


def large(subject: Subject, seconds: float) -> Figures:
    """100 threads, a heap of 1 GB, 1000 files and 10,000 tasks."""
    heap = [[str(number)] for number in range(7_000_000)]
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1000)]
    ends = threading.Event()
    for _ in range(100):
        threading.Thread(target=ends.wait, daemon=True).start()
    figures: Figures = {}

    async def tasks() -> None:
        never = asyncio.Event()
        waiting = [asyncio.create_task(never.wait()) for _ in range(10_000)]
        await asyncio.sleep(1)
        measured = asyncio.to_thread(own_threads_cpu_ms, subject, seconds, time.sleep)
        figures["cpu_ms"] = await measured
        assert len(waiting) == 10_000

    asyncio.run(tasks())
    assert heap
    assert files
    return figures


def server(subject: Subject, seconds: float) -> Figures:
    """An event loop that serves requests as fast as it can."""
    figures: Figures = {}
    with clients(seconds + SETTLING_SECONDS + 1) as address:
        serve(address, lambda: figures.update(cpu_ms=own_threads_cpu_ms(subject, seconds, time.sleep)))
    return figures


def throughput(subject: Subject, seconds: float) -> Figures:
    """The server's requests in a second with the subject, divided by those in the seconds around it.

    It ticks every second, so that it has found the loop, and that ticks are in what is measured.
    """
    served = [0]
    ratios = []

    def requests() -> float:
        time.sleep(1.1)
        before, began = served[0], time.monotonic()
        time.sleep(1)
        return (served[0] - before) / (time.monotonic() - began)

    def measure() -> None:
        without = requests()
        for _ in range(round(seconds)):
            subject.enable(1)
            with_it = requests()
            subject.disable()
            before, without = without, requests()
            ratios.append(2 * with_it / (before + without))

    with clients(seconds * 5 + 10) as address:
        serve(address, measure, served)
    return {"ratio": median(ratios)}


def iteration(subject: Subject, seconds: float) -> Figures:
    """What is added to an iteration of a loop: neighbouring blocks of iterations, with and without the subject."""

    async def block() -> float:
        began = time.perf_counter_ns()
        for _ in range(20_000):
            await asyncio.sleep(0)
        return (time.perf_counter_ns() - began) / 20_000

    async def measure() -> float:
        added = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            without = await block()
            subject.enable()
            await asyncio.sleep(1.5)  # until the loop is found
            added.append(await block() - without)
            subject.disable()
        return median(added)

    return {"added_ns": asyncio.run(measure())}


@contextmanager
def clients(seconds: float) -> Iterator[socket.socket]:
    """A listening socket, and a process that sends requests to it for so long."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        _, port = listener.getsockname()
        command = [sys.executable, __file__, "clients", str(port), str(seconds)]
        with subprocess.Popen(command) as process:
            yield listener
            process.kill()


def serve(listener: socket.socket, measure: Callable[[], None], served: list[int] | None = None) -> None:
    """Serves requests in a loop of asyncio, until what another thread measures is known."""
    count = [0] if served is None else served

    class Connection(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            count[0] += 1
            self.transport.write(RESPONSE)
            if b"close" in data:
                self.transport.close()

    async def run() -> None:
        await asyncio.get_running_loop().create_server(Connection, sock=listener)
        while not count[0]:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(measure)

    asyncio.run(run())


def send_requests(port: str, seconds: str) -> None:
    """The clients."""
    with Load(("127.0.0.1", int(port)), connections=8, keep_alive=True) as clients_of_server:
        clients_of_server.run(float(seconds))


WORKLOADS: dict[str, Callable[[Subject, float], Figures]] = {
    work.__name__: work for work in (idle, busy, large, server, throughput, iteration)
}

if __name__ == "__main__":
    library, name, duration = sys.argv[1:]
    if library == "clients":
        send_requests(name, duration)
    else:
        print(json.dumps(WORKLOADS[name](load(library), float(duration))), flush=True)
        os._exit(0)
