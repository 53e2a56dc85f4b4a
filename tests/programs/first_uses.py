"""One thread forks while another uses everything of ours for the first time; the children use it as well.

The process prints how its children ended: -9 is one that hung.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import sys
import threading
import time
import tracemalloc
import warnings

from runtime_metrics import RuntimeMetrics

# A child that takes longer, in seconds, hangs.
TIMEOUT = 20
# How many children run at once.
MAX_CHILDREN = 8

# CPython has first uses of its own: an import that has begun never ends in the child.
assert {gc, tracemalloc} <= set(sys.modules.values())
warnings.simplefilter("ignore")
sys.setswitchinterval(1e-6)
receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver.bind(("127.0.0.1", 0))
URL = f"udp://127.0.0.1:{receiver.getsockname()[1]}"


async def use() -> None:
    """Uses it in a loop, which calls ours."""
    RuntimeMetrics.enable(dogstatsd_url=URL, flush_interval=3600, level="standard", tags={})
    RuntimeMetrics.flush()
    RuntimeMetrics.snapshot()
    RuntimeMetrics.status()
    for _ in range(5):
        await asyncio.sleep(0)
    RuntimeMetrics.disable()


def wait(pid: int) -> int:
    """Returns how a child has ended."""
    deadline = time.monotonic() + TIMEOUT
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)
    return os.waitstatus_to_exitcode(ended[1])


def fork(done: threading.Event, statuses: list[int]) -> None:
    """Forks until all is done."""
    children: list[int] = []
    while not done.is_set() or children:
        if not done.is_set() and len(children) < MAX_CHILDREN:
            if (pid := os.fork()) == 0:
                asyncio.run(use())
                os._exit(0)
            children.append(pid)
        else:
            statuses.append(wait(children.pop(0)))


def main() -> None:
    """Uses it while a thread forks."""
    done, statuses = threading.Event(), list[int]()
    # asyncio has first uses of its own.
    asyncio.run(asyncio.sleep(0))
    thread = threading.Thread(target=fork, args=[done, statuses])
    thread.start()
    asyncio.run(use())
    done.set()
    thread.join()
    print(json.dumps(statuses))


if __name__ == "__main__":
    main()
