"""A measured process whose threads cannot start at once: it has just been forked, or the system refuses another thread.

The command line names the case; the processes report facts about themselves.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import logging
import multiprocessing
import os
import resource
import subprocess
import time
from functools import partial
from typing import TYPE_CHECKING

from forks import EXECUTED, fork
from reporting import INTERVAL, TIMEOUT, Life, burn, live, report, run, tasks, wait

from runtime_metrics import RuntimeMetrics

if TYPE_CHECKING:
    from collections.abc import Callable

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
LIBC = ctypes.CDLL(None, use_errno=True)
# Here, as finding a function runs Python code.
SETNS, UNSHARE = LIBC.setns, LIBC.unshare

# A user that has no other process, in another run of this program neither.
USER = 20_000 + os.getpid() % 40_000


def enter_namespaces() -> None:
    """Enters a mount namespace and a new user namespace, which only a process with a single thread can."""
    mounts = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    results = [SETNS(mounts, CLONE_NEWNS) and ctypes.get_errno()]
    results.append(UNSHARE(CLONE_NEWUSER) and ctypes.get_errno())
    threads = len(os.listdir("/proc/self/task"))
    os.close(mounts)
    report("entered", errors=[errno.errorcode.get(result) for result in results], threads=threads)


def enter_and_live() -> None:
    """Enters namespaces first."""
    enter_namespaces()
    live("child")


def by_fork() -> None:
    """os.fork."""
    wait(fork(enter_and_live))


def by_preexec() -> None:
    """Python code between the fork and the exec of subprocess, more of it than threads of a child wait for."""

    def prepare() -> None:
        burn(0.05)
        enter_namespaces()

    subprocess.run(EXECUTED, check=True, preexec_fn=prepare, timeout=TIMEOUT)


def by_multiprocessing() -> None:
    """A process of multiprocessing."""
    child = multiprocessing.get_context("fork").Process(target=enter_and_live)
    child.start()
    child.join(TIMEOUT)
    assert child.exitcode == 0


def entering(kind: Callable[[], None]) -> None:
    """A measured process makes a child that enters namespaces."""
    RuntimeMetrics.enable()
    kind()
    RuntimeMetrics.disable()


def idle_pool() -> None:
    """The workers of a pool wait for their first task."""
    RuntimeMetrics.enable()
    with multiprocessing.get_context("fork").Pool(2):
        time.sleep(2.5 * INTERVAL)
    RuntimeMetrics.disable()


def asleep() -> None:
    """A child waits in C code from the start, beyond its first interval, and then again."""

    def child() -> None:
        time.sleep(1.5 * INTERVAL)
        life = Life("child")
        time.sleep(1.5 * INTERVAL)
        life.end()

    RuntimeMetrics.enable()
    wait(fork(child))
    RuntimeMetrics.disable()


def asleep_after_enabling() -> None:
    """A child enables metrics, which starts its threads, and waits in C code."""

    def child() -> None:
        RuntimeMetrics.enable()
        time.sleep(1.5 * INTERVAL)
        Life("child").end()

    RuntimeMetrics.enable()
    wait(fork(child))
    RuntimeMetrics.disable()


def disabling() -> None:
    """A child that has long run ends its threads to enter namespaces, and starts them again."""

    def child() -> None:
        burn(0.05)
        RuntimeMetrics.disable()
        enter_namespaces()
        RuntimeMetrics.enable()
        live("child")

    RuntimeMetrics.enable()
    wait(fork(child))
    RuntimeMetrics.disable()


def forking() -> None:
    """A child forks, and a hook of the program runs more Python code than threads of a child wait for."""
    parent = os.getpid()

    def before() -> None:
        if os.getpid() != parent:
            burn(0.05)
            report("forking", threads=list(tasks()))

    # Registered before ours, so that it is called after it.
    os.register_at_fork(before=before)
    RuntimeMetrics.enable()
    wait(fork(lambda: wait(fork(lambda: live("grandchild")))))
    RuntimeMetrics.disable()


class Log(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        """Nothing has been logged yet."""
        super().__init__(logging.INFO)
        self.messages: list[str] = []
        logger = logging.getLogger("runtime_metrics")
        logger.addHandler(self)
        logger.setLevel(logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps one message."""
        self.messages.append(f"{record.levelname} {record.getMessage()}")


def become_another_user() -> None:
    """Drops the rights of root, to which no limit on processes applies."""
    # The report is opened again by each process.
    facts = os.open(os.environ["FACTS"], os.O_WRONLY | os.O_APPEND)
    os.fchmod(facts, 0o666)
    os.environ["FACTS"] = f"/proc/self/fd/{facts}"
    os.setgroups([])
    os.setgid(USER)
    os.setuid(USER)


def limit_threads(most: int | None) -> None:
    """Limits the threads of the user, in all processes together; no further than it was, without a number."""
    _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    resource.setrlimit(resource.RLIMIT_NPROC, (hard if most is None else most, hard))


def is_sampled() -> bool:
    """Whether the schedule is kept."""
    return "rtm-sampler" in tasks()


def wait_until_sampled(meanwhile: Callable[[], object]) -> None:
    """Waits until the schedule is kept again; nothing calls us."""
    deadline = time.monotonic() + TIMEOUT
    while not is_sampled():
        assert time.monotonic() < deadline, "no thread has been started"
        meanwhile()


def sleep() -> None:
    """Waits, so that little Python code runs."""
    time.sleep(0.1)


def collect() -> None:
    """Runs Python code all the time, and collects."""
    burn(0.01)
    gc.collect(0)


def make_children() -> None:
    """Runs Python code for longer than it is counted, and forks."""
    burn(0.01)
    wait(fork(lambda: None))


def refused_in_parent(meanwhile: Callable[[], object]) -> None:
    """The child takes the place of the thread that its parent has ended for the fork."""
    reading, writing = os.pipe()

    def child() -> None:
        os.close(writing)
        os.read(reading, 1)

    log = Log()
    become_another_user()
    RuntimeMetrics.enable()
    limit_threads(2)
    pid = fork(child)
    # More than the first steps after the fork.
    burn(0.05)
    for _ in range(3):
        RuntimeMetrics.enable()
    refused = RuntimeMetrics.status()
    assert RuntimeMetrics.flush()
    is_refused = not is_sampled()
    os.close(writing)
    wait(pid)
    wait_until_sampled(meanwhile)
    end("parent", log, refused, is_refused)


def refused_in_child(meanwhile: Callable[[], object]) -> None:
    """The child must not have a thread at first."""

    def child() -> None:
        limit_threads(1)
        log = Log()
        burn(0.05)
        refused, is_refused = RuntimeMetrics.status(), not is_sampled()
        limit_threads(None)
        wait_until_sampled(meanwhile)
        end("child", log, refused, is_refused)

    become_another_user()
    RuntimeMetrics.enable()
    wait(fork(child))
    RuntimeMetrics.disable()


def refused_at_start(meanwhile: Callable[[], object]) -> None:
    """The process must not have a thread when it enables metrics, again and again."""
    log = Log()
    become_another_user()
    limit_threads(1)
    for _ in range(4):
        RuntimeMetrics.enable()
    refused, is_refused = RuntimeMetrics.status(), not is_sampled()
    limit_threads(None)
    wait_until_sampled(meanwhile)
    end("start", log, refused, is_refused)


def end(role: str, log: Log, refused: object, is_refused: bool) -> None:
    """Waits for a tick, disables metrics and reports."""
    time.sleep(1.5 * INTERVAL)
    state = RuntimeMetrics.status()["state"]
    RuntimeMetrics.disable()
    report(role, refused=refused, is_refused=is_refused, state=state, logged=log.messages)


KINDS: dict[str, Callable[[], None]] = {
    "os.fork": partial(entering, by_fork),
    "preexec_fn": partial(entering, by_preexec),
    "multiprocessing": partial(entering, by_multiprocessing),
    "without us": by_preexec,
    "idle pool": idle_pool,
    "asleep": asleep,
    "asleep after enabling": asleep_after_enabling,
    "disabling": disabling,
    "forking": forking,
}
REFUSED: dict[str, Callable[[Callable[[], object]], None]] = {
    "parent": refused_in_parent,
    "child": refused_in_child,
    "start": refused_at_start,
}
KINDS |= {
    f"{name}, {meanwhile.__name__}": partial(kind, meanwhile)
    for name, kind in REFUSED.items()
    for meanwhile in (sleep, collect, make_children)
}

if __name__ == "__main__":
    gc.disable()
    run(KINDS)
