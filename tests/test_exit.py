"""The end of a process: one last sample where the interpreter can run code, and none where it cannot."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from catalogue_names import also_at_standard, is_complete
from receiving import Flushes
from test_fork import PROGRAMS, Programs

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs the credentials of senders")

PAGE = Path(__file__).parent.parent / "docs" / "exit.md"
METHODS = ["fork", "forkserver", "spawn"]


@dataclass(frozen=True)
class End:
    """What a process leaves behind: how many last samples, its exit status, the last line on stderr."""

    samples: int
    status: int = 0
    error: str = ""


ENDS = {
    "end of the main module": End(1),
    "`sys.exit()`": End(1, 3),
    "unhandled exception": End(1, 1, "ValueError: not handled"),
    "SIGINT (Ctrl-C)": End(1, -signal.SIGINT, "KeyboardInterrupt"),
    "SIGTERM, with a handler in Python that raises `SystemExit`": End(1),
    "SIGTERM, without a handler": End(0, -signal.SIGTERM),
    "SIGKILL": End(0, -signal.SIGKILL),
    "SIGSEGV": End(0, -signal.SIGSEGV),
    "`os._exit()`": End(0, 3),
    "`os.exec*()`": End(0),
    "`RuntimeMetrics.disable()`, then any exit": End(1),
    "child of `os.fork()` that ends normally": End(1),
    "child of `os.fork()` that calls `os._exit()`": End(0),
}

ENDS_OF_WORKERS = {
    "`multiprocessing.Process` that ends normally": End(1),
    "`multiprocessing.Process` that raises": End(1, 0, "ValueError: not handled"),
    "`multiprocessing.Process` after `terminate()`": End(0),
    "worker of a `multiprocessing.Pool` after `close()`": End(1),
    "worker of a `multiprocessing.Pool`, recycled by `maxtasksperchild`": End(1),
    "worker of a `multiprocessing.Pool` after `terminate()`": End(0),
    "worker of a `concurrent.futures.ProcessPoolExecutor`": End(1),
}


@pytest.fixture
def program(tmp_path: Path) -> Programs:
    """Runs programs."""
    return Programs(tmp_path)


AGAIN = [
    "end of the main module",
    "unhandled exception",
    "SIGINT (Ctrl-C)",
    "child of `os.fork()` that ends normally",
]


@also_at_standard("cause", ENDS, *AGAIN)
def test_a_process_ends_with_one_last_sample_or_with_none(program: Programs, cause: str) -> None:
    assert_end(program, ENDS[cause], cause)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("cause", ENDS_OF_WORKERS)
def test_a_worker_ends_with_one_last_sample_or_with_none(program: Programs, cause: str, method: str) -> None:
    assert_end(program, ENDS_OF_WORKERS[cause], cause, method)


def assert_end(program: Programs, end: End, *arguments: str) -> None:
    """Runs a program whose processes report that they end, and checks what arrives from them."""
    run = program("exits.py", *arguments, interval=3600, status=end.status, error=end.error)
    processes = [fact["pid"] for fact in run.facts if fact["role"] == "ending"]
    assert processes
    sent = {pid: [arrival for arrival in run.arrivals if arrival.sender == pid] for pid in processes}
    assert {pid: len(arrivals) for pid, arrivals in sent.items()} == dict.fromkeys(processes, end.samples)
    of_these = [arrival for arrivals in sent.values() for arrival in arrivals]
    assert [arrival for arrival in of_these if not is_complete(arrival.flush.values)] == []
    assert len({arrival.id for arrival in of_these}) == len(of_these)


def test_the_page_about_exits_matches_these_tests() -> None:
    rows = re.findall(r"^\| (?P<cause>.+?) \| (?P<sample>yes|no) \|", PAGE.read_text(), re.MULTILINE)
    assert dict(rows) == {
        cause: "yes" if end.samples else "no" for cause, end in (ENDS | ENDS_OF_WORKERS).items()
    }


STARTS = 500


@pytest.fixture
def unread() -> Iterator[str]:
    """An address at which everything is received and nothing is read."""
    with Flushes.udp() as receiving:
        yield receiving.url


@pytest.mark.timeout(400)
def test_hundreds_of_exits_under_load_neither_crash_nor_hang(unread: str) -> None:
    def run(number: int) -> tuple[int, str]:
        # With an interval of 10 ms, each run ends at another moment of the interval.
        command = [sys.executable, str(PROGRAMS / "short.py"), str(0.01 + number % 40 / 2000)]
        done = subprocess.run(
            command,
            env=os.environ | {"DD_DOGSTATSD_URL": unread},
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )
        return done.returncode, done.stderr

    with ThreadPoolExecutor(2) as two_at_a_time:
        ends = list(two_at_a_time.map(run, range(STARTS)))
    assert ends == [(0, "")] * STARTS
