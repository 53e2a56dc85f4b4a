"""More datagrams at one moment than a Unix socket's queue holds: none is lost to a receiver that does nothing but read.

A queue holds ten by default. A flush waits for room in it, at most 100 ms.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from catalogue_names import PREFIX, assert_complete
from receiving import Flushes

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import RunProgram

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a queue has no such limit"),
    # The receiver must be given time to read within the 100 ms.
    pytest.mark.measures,
]

# With these, no two lines share a datagram.
LONG_TAGS = ",".join(f"tag{number}:{'v' * 180}" for number in range(28))

ONE_PROCESS = """
from runtime_metrics import RuntimeMetrics
RuntimeMetrics.enable(flush_interval=3600)
RuntimeMetrics.flush()
status = RuntimeMetrics.status()
print(status["packets_sent"] > 11, status["packets_dropped"])
"""

POOL = """
import os
import time
from multiprocessing import get_context
from runtime_metrics import RuntimeMetrics

def work(number):
    # So that each process of the pool has its part.
    time.sleep(0.05)
    return os.getpid()

RuntimeMetrics.enable(flush_interval=3600)
pool = get_context("fork").Pool(8)
processes = set(pool.map(work, range(64), chunksize=1))
pool.close()
# All flush at once.
pool.join()
print(len(processes) == 8, 0)
"""


@pytest.mark.parametrize(("program", "processes"), [(ONE_PROCESS, 1), (POOL, 9)], ids=["one process", "pool"])
def test_what_is_more_than_a_queue_holds_arrives_whole(
    tmp_path: Path, run_program: RunProgram, program: str, processes: int
) -> None:
    with Flushes.unix(str(tmp_path / "agent")) as agent, ThreadPoolExecutor(1) as pool:
        running = pool.submit(run_program, program, DD_DOGSTATSD_URL=agent.url, DD_TAGS=LONG_TAGS)
        arrived: list[bytes] = []
        while not running.done():
            arrived += agent.datagrams()
        arrived += agent.datagrams()
        assert running.result() == "True 0\n"
    names = defaultdict(list)
    for datagram in arrived:
        line = datagram.decode()
        assert line.count("\n") == 1
        (process,) = re.findall("runtime-id:([0-9a-f]+)", line)
        names[process].append(line.partition(":")[0].removeprefix(PREFIX))
    assert len(names) == processes
    flushes = 2 if processes == 1 else 1
    for of_process in names.values():
        assert_complete(of_process)
        assert len(of_process) == flushes * len(set(of_process))
