"""What the standard level adds to an iteration of an event loop, in nanoseconds."""

from __future__ import annotations

import asyncio
import time
from statistics import median

from runtime_metrics import RuntimeMetrics

ITERATIONS = 5_000
PAIRS = 50


async def iteration_ns() -> float:
    """An iteration that does nothing, on average."""
    began = time.perf_counter_ns()
    for _ in range(ITERATIONS):
        await asyncio.sleep(0)
    return (time.perf_counter_ns() - began) / ITERATIONS


async def main() -> None:
    """Prints both figures."""
    without, added = [], []
    for _ in range(PAIRS):
        without.append(await iteration_ns())
        RuntimeMetrics.enable(flush_interval=3600, level="standard")
        # The first finds the function, which CPython then expects to find.
        await asyncio.sleep(0)
        added.append(await iteration_ns() - without[-1])
        RuntimeMetrics.disable()
    print(f"an iteration: {median(without):.0f} ns; added: {median(added):.0f} ns")


if __name__ == "__main__":
    asyncio.run(main())
