"""The measures: each takes a host and returns the named figures of one round."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from host import Host

    Figures = dict[str, float]


@dataclass(frozen=True)
class Measure:
    """A way to take figures, and what it needs from the machine."""

    take: Callable[[Host], Figures]
    program: str | None = None
    cores: int = 1

    def obstacle(self) -> str | None:
        """Why it cannot be taken here; None if it can."""
        if self.program and not shutil.which(self.program):
            return f"{self.program} is not installed"
        if len(os.sched_getaffinity(0)) < self.cores:
            return f"it needs {self.cores} cores"
        return None


def startup(host: Host, pairs: int = 7) -> Figures:
    """CPU of import and enable in milliseconds: a fresh process with the subject, less one without."""
    host.startup_cpu_ms(host.subject)  # fills the page cache and writes the .pyc files
    with_subject, without = [], []
    for _ in range(pairs):
        without.append(host.startup_cpu_ms("empty"))
        with_subject.append(host.startup_cpu_ms(host.subject))
    return {"startup_ms": median(with_subject) - median(without)}


def memory(host: Host, pairs: int = 3) -> Figures:
    """Resident memory that import and enable add, less what the measurement adds."""
    added = [host.added_memory_kb(host.subject) - host.added_memory_kb("empty") for _ in range(pairs)]
    return {"rss_kb": median(added)}


def instructions(host: Host, few: int = 50, many: int = 250) -> Figures:
    """User-space instructions of one tick in thousands: the slope between two numbers of ticks."""

    def total(ticks: int) -> int:
        callgrind = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
        report = host.start([*callgrind, *host.command("only_ticks", str(ticks))]).stderr
        collected = re.search(r"Collected : (\d+)", report)
        if collected is None:
            raise RuntimeError(f"callgrind printed no total: {report[-500:]}")
        return int(collected[1])

    return {"kinstructions": (total(many) - total(few)) / (many - few) / 1e3}


def syscalls(host: Host, ticks: int = 50) -> Figures:
    """System calls of one tick: of the thread that ticks, of all threads, and the former by name."""
    with tempfile.NamedTemporaryFile("r") as trace:
        strace = ["strace", "-f", "-qq", "-o", trace.name]
        host.start([*strace, *host.command("marked_ticks", str(ticks))])
        # "1234 read(3, ..." or, the other half of an interrupted line, "1234 <... read resumed>".
        calls = re.findall(r"^(\d+) +(\w+)\(", trace.read(), re.MULTILINE)
    begin, end = (place for place, (_, name) in enumerate(calls) if name == "getsid")
    ticking_thread = calls[begin][0]
    between = calls[begin + 1 : end]
    by_name = Counter(name for thread, name in between if thread == ticking_thread)
    return {
        "syscalls": by_name.total() / ticks,
        "syscalls_all_threads": len(between) / ticks,
        **{f"syscall {name}": count / ticks for name, count in by_name.most_common()},
    }


def inside(measure: str, host: Host) -> Figures:
    """A measure that is taken in the subject's own process."""
    return host.inside(measure)


MEASURES = {
    "startup": Measure(startup),
    "memory": Measure(memory),
    "tick": Measure(partial(inside, "tick")),
    "instructions": Measure(instructions, program="valgrind"),
    "syscalls": Measure(syscalls, program="strace"),
    "gc_callback": Measure(partial(inside, "gc_callback")),
    "fork": Measure(partial(inside, "fork")),
    "wire": Measure(partial(inside, "wire")),
    "flush_pause": Measure(partial(inside, "flush_pause"), cores=2),
    "automatic_pause": Measure(partial(inside, "automatic_pause"), cores=2),
}
