"""Runs the standard level with what the command line names; prints of each metric whether it was sent, or why not.

The first word is what runs: `asyncio`, `uvloop`, `gevent` or `nothing`. Others are files of control groups that count
periods of a CPU quota: the kernel's stand still in a copy.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from runtime_metrics import RuntimeMetrics

if TYPE_CHECKING:
    from collections.abc import Iterator

# What is waited for; if that is not known, there is time for anything.
EXPECTED = set(filter(None, os.environ.get("EXPECTED", "").split(",")))
TIMEOUT, ENOUGH = 20.0, 5.0
PAUSE = 0.2


def let_periods_pass(stats: list[str]) -> None:
    """Has a CPU quota enforced for another period."""
    for path in map(Path, stats):
        counts = dict(line.split(" ") for line in path.read_text().splitlines())
        counts["nr_periods"] = str(int(counts["nr_periods"]) + 1)
        path.write_text("".join(f"{name} {count}\n" for name, count in counts.items()))


def flushes(stats: list[str], states: dict[str, str]) -> Iterator[None]:
    """Flushes again and again, until everything has come and a little longer."""
    began, further = time.monotonic(), 2
    while further and time.monotonic() < began + (TIMEOUT if EXPECTED else ENOUGH):
        yield
        let_periods_pass(stats)
        assert RuntimeMetrics.flush()
        for name, state in RuntimeMetrics.status()["selected"].items():
            # What comes now and then has come; what never does has its last reason.
            if states.get(name) != "sent":
                states[name] = state
        if EXPECTED and {name for name in states if states[name] == "sent"} >= EXPECTED:
            further -= 1


async def in_loop(stats: list[str]) -> dict[str, str]:
    """In an event loop, beside a server and a pool of threads."""
    import asyncio

    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    await asyncio.get_running_loop().run_in_executor(None, time.sleep, 0)
    states: dict[str, str] = {}
    async with server:
        for _ in flushes(stats, states):
            await asyncio.sleep(PAUSE)
    return states


def beside(stats: list[str]) -> dict[str, str]:
    """Without an event loop."""
    states: dict[str, str] = {}
    for _ in flushes(stats, states):
        time.sleep(PAUSE)
    return states


def main(kind: str, *stats: str) -> dict[str, str]:
    """Runs what is named."""
    if kind == "gevent":
        import gevent.monkey

        gevent.monkey.patch_all()
    if kind != "nothing":
        import asyncio
    RuntimeMetrics.enable(flush_interval=60, level="standard")
    if kind == "asyncio":
        return asyncio.run(in_loop(list(stats)))
    if kind == "uvloop":
        import uvloop

        states: dict[str, str] = uvloop.run(in_loop(list(stats)))
        return states
    return beside(list(stats))


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
    RuntimeMetrics.disable()
