"""A measured process forks in the way that the command line names; parent and child report facts about themselves."""

from __future__ import annotations

import ctypes
import functools
import gc
import os
import pty
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, NoReturn

from reporting import INTERVAL, Life, burn, links, live, report, run, tasks, wait

from runtime_metrics import RuntimeMetrics

if TYPE_CHECKING:
    from collections.abc import Callable


def fork(child: Callable[[], None], call: Callable[[], int] = os.fork) -> int:
    """Forks a child that runs this and ends."""
    pid = call()
    if pid == 0:
        end(child)
    return pid


def end(child: Callable[[], None]) -> NoReturn:
    """Runs the child's work and ends the process; the exit status shows whether that failed."""
    status = 1
    try:
        child()
        status = 0
    finally:
        sys.stderr.flush()
        os._exit(status)


def plain(_life: Life) -> None:
    """os.fork."""
    wait(fork(lambda: live("child")))


def pseudoterminal(_life: Life) -> None:
    """pty.fork; the parent reads until the child has closed its end."""
    terminals = []

    def call() -> int:
        pid, terminal = pty.fork()
        terminals.append(terminal)
        return pid

    wait(fork(lambda: live("child"), call))
    os.close(terminals[0])


def thread(life: Life) -> None:
    """os.fork by a thread."""
    forking = threading.Thread(target=plain, args=[life])
    forking.start()
    forking.join()


def finaliser(life: Life) -> None:
    """os.fork by `__del__`, inside a collection that continues in parent and child."""
    pids = []

    class Forking:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            pids.append(os.fork())

    Forking()
    life.collect(1)
    (pid,) = pids
    if pid == 0:
        end(lambda: live("child"))
    wait(pid)


def grandchild(_life: Life) -> None:
    """os.fork by a child that continues."""

    def child() -> None:
        life = Life("child")
        pid = fork(lambda: live("grandchild"))
        life.collect(2)
        time.sleep(1.5 * INTERVAL)
        wait(pid)
        life.end()

    wait(fork(child))


def daemonise(close: Callable[[], None], close_last: Callable[[int], None]) -> None:
    """A daemon in the usual way: fork, new session, fork; the standard streams are closed and opened again."""
    reading, writing = os.pipe()

    def leader() -> None:
        os.setsid()
        close()
        fork(serve)

    def serve() -> None:
        close_last(writing)
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        live("child")

    wait(fork(leader))
    os.close(writing)
    # The other end is closed when the daemon, which ends last, has ended.
    os.read(reading, 1)
    os.close(reading)


def daemon(_life: Life) -> None:
    """Descriptors 0 to 2 are unused while the daemon is forked."""
    daemonise(lambda: os.closerange(0, 3), lambda _spared: None)


def daemon_that_closes_all(_life: Life) -> None:
    """A daemon that closes every descriptor after the last fork."""

    def close_all(spared: int) -> None:
        os.closerange(0, spared)
        os.closerange(spared + 1, 256)

    daemonise(lambda: None, close_all)


def unhooked(fork_in_c: Callable[[], int], notice: Callable[[Life], None], _life: Life) -> None:
    """A fork by C code, which runs no hook: it is noticed at the child's next call."""

    def child() -> None:
        life = Life("child")
        notice(life)
        time.sleep(1.5 * INTERVAL)
        life.end()

    wait(fork(child, fork_in_c))


def notice_by_flush(_life: Life) -> None:
    """The child flushes."""
    assert RuntimeMetrics.flush()


def notice_by_snapshot(_life: Life) -> None:
    """The child takes a snapshot."""
    assert RuntimeMetrics.snapshot()


def notice_by_collection(life: Life) -> None:
    """The child collects; the collection that notices the fork is not counted."""
    gc.collect()
    sum(range(1000))
    life.collect(1)


def notice_by_enable(_life: Life) -> None:
    """The child enables metrics again."""
    RuntimeMetrics.enable()


# PyDLL holds the GIL during the call, CDLL releases it.
IN_C = {"PyDLL": ctypes.PyDLL(None).fork, "CDLL": ctypes.CDLL(None).fork}
NOTICES = {
    "flush": notice_by_flush,
    "snapshot": notice_by_snapshot,
    "collection": notice_by_collection,
    "enable": notice_by_enable,
}

# Each leaves one child, or a child and a grandchild, that are measured.
MEASURED: dict[str, Callable[[Life], None]] = {
    "os.fork": plain,
    "pty.fork": pseudoterminal,
    "thread": thread,
    "finaliser": finaliser,
    "grandchild": grandchild,
    "daemon": daemon,
    "daemon that closes all": daemon_that_closes_all,
} | {
    f"{library} noticed by {name}": functools.partial(unhooked, call, notice)
    for library, call in IN_C.items()
    for name, notice in NOTICES.items()
}


def measured(kind: Callable[[Life], None]) -> Callable[[], None]:
    """A parent that has used CPU time and memory, which would show in a child that counted them as its own."""

    def parent() -> None:
        before = set(links())
        RuntimeMetrics.enable()
        life = Life("parent")
        kept = b"x" * (60 << 20)
        burn(0.3)
        life.collect(7)
        assert RuntimeMetrics.flush()
        report("ours", links=sorted(set(links()) - before))
        # Within the interval in which it forks.
        burn(0.1)
        life.collect(5)
        # In the middle of an interval, so that a child that kept its parent's schedule would show.
        time.sleep(max(0.0, life._born + INTERVAL / 2 - time.monotonic()))
        kind(life)
        life.end()
        del kept

    return parent


def in_child_while_disabled() -> None:
    """The parent has disabled metrics: they stay disabled in its child until it enables them."""
    RuntimeMetrics.enable()
    RuntimeMetrics.disable()

    def child() -> None:
        assert tasks() == []
        assert RuntimeMetrics.flush() is False
        report("before enable", enabled=RuntimeMetrics._enabled)
        RuntimeMetrics.enable()
        live("child")

    wait(fork(child))
    report("parent", enabled=RuntimeMetrics._enabled)


def disable_in_child() -> None:
    """The child disables metrics; the parent continues."""
    RuntimeMetrics.enable()

    def child() -> None:
        RuntimeMetrics.disable()
        deadline = time.monotonic() + 20
        while tasks() and time.monotonic() < deadline:
            time.sleep(0.01)
        report("child", enabled=RuntimeMetrics._enabled, tasks=tasks())
        time.sleep(2 * INTERVAL)

    wait(fork(child))
    report("parent", enabled=RuntimeMetrics._enabled)
    RuntimeMetrics.disable()


def enable_only_in_child() -> None:
    """The parent only imports the package."""

    def child() -> None:
        RuntimeMetrics.enable()
        live("child")

    wait(fork(child))
    report("parent", enabled=RuntimeMetrics._enabled, tasks=tasks())


EXECUTED = [sys.executable, os.path.join(os.path.dirname(__file__), "executed.py")]


def executing(kind: Callable[[], int | None]) -> Callable[[], None]:
    """A measured process executes another program, and continues unless that takes its place."""

    def parent() -> None:
        before = set(links())
        RuntimeMetrics.enable()
        assert RuntimeMetrics.flush()
        report("ours", links=sorted(set(links()) - before))
        pid = kind()
        if pid is not None:
            wait(pid)
        threads = tasks()
        time.sleep(2 * INTERVAL)
        report("parent", threads=threads)
        RuntimeMetrics.disable()

    return parent


def by_subprocess() -> None:
    """subprocess.run, which forks without hooks."""
    subprocess.run(EXECUTED, check=True, close_fds=False, timeout=20)


def by_subprocess_with_preexec() -> None:
    """subprocess.run with Python code in the child, which runs the hooks."""
    subprocess.run(EXECUTED, check=True, close_fds=False, preexec_fn=os.getpid, timeout=20)


def by_posix_spawn() -> int:
    """posix_spawn."""
    return os.posix_spawn(sys.executable, EXECUTED, os.environ)


def by_fork_and_exec() -> int:
    """os.fork, then os.exec in the child."""
    return fork(lambda: os.execv(sys.executable, EXECUTED))


def by_exec() -> None:
    """os.exec of the process itself: the program that takes its place is not measured."""
    os.execv(sys.executable, EXECUTED)


def during_ticks() -> None:
    """Forks while the sampler ticks at its fastest."""
    RuntimeMetrics.enable(flush_interval=0.01)
    for _ in range(300):
        wait(fork(flush))
    report("parent", forks=300)
    RuntimeMetrics.disable()


def flush() -> None:
    """A child flushes once."""
    assert RuntimeMetrics.flush()


def often() -> None:
    """Forks many times in each of several intervals."""
    RuntimeMetrics.enable()
    start, forks = time.monotonic(), 0
    while time.monotonic() < start + 6 * INTERVAL:
        wait(fork(lambda: None))
        forks += 1
    report("parent", forks=forks, start=start)
    RuntimeMetrics.disable()


def failing() -> None:
    """Forks that the system refuses."""
    RuntimeMetrics.enable()
    failures, before = 0, work()
    for _ in range(3):
        try:
            attempt()
        except BlockingIOError:
            failures += 1
    slowed = work() / before
    time.sleep(4.5 * INTERVAL)
    report("parent", failures=failures, slowed=slowed, tasks=tasks())
    RuntimeMetrics.disable()


def attempt() -> None:
    """Forks, and fails."""
    os.fork()


def work() -> float:
    """The CPU seconds that many small calls take."""
    start = time.process_time()
    for number in range(100_000):
        abs(number)
    return time.process_time() - start


KINDS = (
    {name: measured(kind) for name, kind in MEASURED.items()}
    | {
        "subprocess": executing(by_subprocess),
        "preexec_fn": executing(by_subprocess_with_preexec),
        "posix_spawn": executing(by_posix_spawn),
        "fork and exec": executing(by_fork_and_exec),
        "exec": executing(by_exec),
    }
    | {
        "while disabled": in_child_while_disabled,
        "disable in child": disable_in_child,
        "enable only in child": enable_only_in_child,
        "during ticks": during_ticks,
        "often": often,
        "failing": failing,
    }
)

if __name__ == "__main__":
    gc.disable()
    run(KINDS)
