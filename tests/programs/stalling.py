"""Stalls as often as the command line says, in the way that it says, and flushes after each."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import sys
import threading
import time

from runtime_metrics import RuntimeMetrics

# How long each stall takes, in seconds: a process that is idle is probed every 1.5 seconds at the least. And the time
# after it in which it is seen to have ended.
STALL, PAUSE = 3.5, 0.7


def hold_the_gil() -> None:
    """A C function that sleeps without releasing the GIL."""
    ctypes.PyDLL(None).usleep(int(STALL * 1e6))


def collect() -> None:
    """Collects for as long, a heap of as many objects as that takes."""
    gc.disable()
    heap: list[object] = []
    while True:
        heap.extend([] for _ in range(200_000))
        start = time.monotonic()
        gc.collect()
        if time.monotonic() - start > 0.1:
            break
    end = time.monotonic() + STALL
    # One collection of that length would take gigabytes; between these no one else gets the GIL.
    sys.setswitchinterval(60)
    while time.monotonic() < end:
        gc.collect()
    sys.setswitchinterval(0.005)
    heap.clear()
    gc.enable()


def starve() -> None:
    """Computes where others compute on the same CPU, and have precedence."""
    end = time.monotonic() + STALL
    while time.monotonic() < end:
        sum(range(1000))


async def be_found() -> None:
    """A flush finds the loop that runs it, which is observed soon."""
    RuntimeMetrics.flush()
    for _ in range(5):
        await asyncio.sleep(0.01)


async def block() -> None:
    """Blocks the event loop by a call that releases the GIL."""
    await asyncio.sleep(0.1)
    time.sleep(STALL)
    await asyncio.sleep(0.1)


async def compute() -> None:
    """Blocks the event loop by Python code."""
    await asyncio.sleep(0.1)
    end = time.monotonic() + STALL
    while time.monotonic() < end:
        sum(range(1000))
    await asyncio.sleep(0.1)


async def hold_the_gil_in_a_loop() -> None:
    """Both the loop and the interpreter are overdue."""
    await asyncio.sleep(0.1)
    hold_the_gil()
    await asyncio.sleep(0.1)


async def iterate() -> None:
    """Nearly always within an iteration, but never for long."""
    end = time.monotonic() + STALL
    while time.monotonic() < end:
        pause = time.monotonic() + 0.05
        while time.monotonic() < pause:
            sum(range(1000))
        await asyncio.sleep(0)


async def let_the_loop_end() -> None:
    """A loop that does not run keeps nothing waiting."""
    await asyncio.sleep(0.1)


def be_idle() -> None:
    """The program itself waits: that is no stall."""
    time.sleep(STALL)


def compete_for_the_gil() -> None:
    """Threads compute: they wait for the GIL, but not for long."""
    end = time.monotonic() + STALL

    def work() -> None:
        while time.monotonic() < end:
            sum(range(1000))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


WAYS = {
    function.__name__: function for function in (hold_the_gil, collect, starve, be_idle, compete_for_the_gil)
}
LOOP_WAYS = {
    function.__name__: function
    for function in (block, compute, hold_the_gil_in_a_loop, iterate, let_the_loop_end)
}


def main(way: str, times: int) -> None:
    """Stalls, and flushes."""
    if way == "starve":
        # Our own threads inherit it.
        os.sched_setaffinity(0, [int(os.environ["CPU"])])
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    loop = asyncio.new_event_loop() if way in LOOP_WAYS else None
    RuntimeMetrics.enable(flush_interval=3600, level="standard")
    RuntimeMetrics.flush()
    for _ in range(times):
        if loop is not None:
            loop.run_until_complete(be_found())
            loop.run_until_complete(LOOP_WAYS[way]())
            time.sleep(PAUSE if way != "let_the_loop_end" else STALL)
        else:
            WAYS[way]()
            time.sleep(PAUSE)
        RuntimeMetrics.flush()
    if loop is not None:
        loop.close()
    RuntimeMetrics.disable()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
