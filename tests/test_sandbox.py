"""A process whose sandbox refuses system calls sends all that can be known without them."""

from __future__ import annotations

import errno
import json
import os
import platform
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from agents import Agent, Udp, UnixDatagrams, UnixStream
from catalogue_names import NAMES, PERCENT_NAMES, PREFIX

from runtime_metrics import _core

if TYPE_CHECKING:
    from collections.abc import Iterable

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="system calls have other numbers there"),
]

PROGRAM = Path(__file__).parent / "programs" / "sandboxed.py"

CALLS = {
    "clock_gettime": 228,
    "fcntl": 72,
    "fstat": 5,
    "getpeername": 52,
    "getrandom": 318,
    "getrusage": 98,
    "getsockopt": 55,
    "gettid": 186,
    "lstat": 6,
    "madvise": 28,
    "memfd_create": 319,
    "newfstatat": 262,
    "open": 2,
    "openat": 257,
    "poll": 7,
    "prctl": 157,
    "pread64": 17,
    "sched_getaffinity": 204,
    "sched_yield": 24,
    "sendmmsg": 307,
    "sendmsg": 46,
    "sendto": 44,
    "setsockopt": 54,
    "sigaltstack": 131,
    "stat": 4,
    "statx": 332,
    "uname": 63,
}
STAT = ["stat", "lstat", "newfstatat", "statx"]

CERTAIN = set(NAMES) - set(PERCENT_NAMES)


def needing(source: str) -> set[str]:
    """The metrics that need a source."""
    return {
        metric.name.removeprefix(PREFIX)
        for metric in _core.catalogue()
        if source in metric.needs and metric.name.removeprefix(PREFIX) in NAMES
    }


@pytest.mark.parametrize(
    ("error", "after"),
    [("EPERM", False), ("ENOSYS", False), ("EPERM", True)],
    ids=["EPERM", "ENOSYS", "EPERM later"],
)
@pytest.mark.parametrize(
    ("refused", "missing"),
    [
        (["sendmmsg"], set()),
        (["fcntl"], set()),
        (["getsockopt", "setsockopt"], set()),
        (["sendmmsg", "fcntl", "getsockopt", "setsockopt"], set()),
        (["pread64"], set()),
        (["fstat"], set()),
        (["fstat", *STAT], needing("Threads")),
        (["statx"], set()),
        (["openat", "open"], needing("Memory")),
        (["getrusage"], needing("ResourceUsage")),
        (["madvise"], set()),
        (["poll"], set()),
        (["getpeername"], set()),
        (["getrandom"], set()),
        (["prctl", "sigaltstack", "sched_yield", "gettid"], set()),
        (["clock_gettime", "uname", "memfd_create", "sched_getaffinity"], set()),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_only_what_needs_a_refused_system_call_is_missing(
    tmp_path: Path, refused: list[str], missing: set[str], error: str, after: bool
) -> None:
    with ExitStack() as stack:
        agents: list[Agent] = [
            stack.enter_context(agent)
            for agent in (Udp(), UnixDatagrams(tmp_path / "d.sock"), UnixStream(tmp_path / "s.sock"))
        ]
        facts = run(agents, refused, error, after)
    for agent, names in zip(agents, facts["snapshots"], strict=True):
        # What was opened before stays open.
        is_open = after and agent is agents[0] and "openat" in refused
        expected = set() if is_open else missing
        assert {name for name in CERTAIN if f"{PREFIX}{name}" not in names} == expected - set(PERCENT_NAMES)
        # A sandbox that comes later leaves the first flush whole. Only that one covers enough time for a percentage.
        missed = int(after and agent is agents[0])
        sent = Counter(
            line.split(b":")[0].decode() for packet in agent.packets for line in packet.splitlines()
        )
        for name in NAMES:
            # The last is sent when it is disabled.
            times = range(1, 5) if name in PERCENT_NAMES else [4]
            assert sent[f"{PREFIX}{name}"] in ([missed] if name in expected else times), name
    assert facts["sent"] == [[True] * 3] * 3
    assert facts["messages"] == []
    assert facts["leaked"] == []


@pytest.mark.parametrize("error", ["EPERM", "ENOSYS"])
@pytest.mark.parametrize("transport", ["udp", "unix"])
def test_a_sandbox_that_lets_nothing_be_sent_is_named_in_the_warning(
    tmp_path: Path, transport: str, error: str
) -> None:
    with Udp() if transport == "udp" else UnixDatagrams(tmp_path / "d.sock") as agent:
        facts = run([agent], ["sendmmsg", "sendmsg", "sendto"], error, after=False)
        agent.drain()
        assert agent.packets == []
    (warning,) = facts["messages"]
    assert os.strerror(getattr(errno, error)) in warning
    assert "sandbox" in warning
    assert "may user" not in warning


def run(agents: Iterable[Agent], refused: list[str], error: str, after: bool) -> dict[str, Any]:
    """Runs the program, which must not fail; returns what it prints."""
    options = {
        "urls": [agent.url for agent in agents],
        "calls": [CALLS[name] for name in refused],
        "error": getattr(errno, error),
        "after": after,
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", PROGRAM, json.dumps(options)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts
