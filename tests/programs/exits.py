"""A measured process ends by the cause that the command line names; it reports its pid first.

It ends within its first interval: whatever it sends is a last sample.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from reporting import TIMEOUT, report, wait, wait_until_reported

from runtime_metrics import RuntimeMetrics

if TYPE_CHECKING:
    from collections.abc import Callable

TRUE = ["/bin/sh", "-c", ":"]


def enabled(ending: Callable[[], object]) -> Callable[[], None]:
    """The process itself is measured, and ends."""

    def process() -> None:
        RuntimeMetrics.enable()
        report("ending")
        ending()

    return process


def at_end_of_main() -> None:
    """Nothing more to do."""


def unhandled() -> None:
    """An exception that is not handled."""
    raise ValueError("not handled")


def signalled(number: signal.Signals) -> None:
    """A signal to itself."""
    os.kill(os.getpid(), number)
    time.sleep(TIMEOUT)


def terminated_with_handler() -> None:
    """SIGTERM where a handler in Python ends the program."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signalled(signal.SIGTERM)


def forked(ending: Callable[[], object]) -> Callable[[], None]:
    """A child that is measured ends."""

    def parent() -> None:
        RuntimeMetrics.enable()
        pid = os.fork()
        if pid == 0:
            report("ending")
            ending()
        else:
            wait(pid)

    return parent


def process(ending: Callable[[], object], method: str) -> None:
    """A multiprocessing.Process."""
    RuntimeMetrics.enable()
    context: Any = multiprocessing.get_context(method)
    child = context.Process(target=target, args=[ending])
    child.start()
    child.join(TIMEOUT)


def target(ending: Callable[[], object]) -> None:
    """What a child of multiprocessing does; enabling is for those that have not inherited it."""
    RuntimeMetrics.enable()
    report("ending")
    ending()


def task(_number: int) -> None:
    """What a worker of a pool does."""
    time.sleep(0.05)


def long_task(_number: int) -> None:
    """What a worker does when it is terminated."""
    report("working")
    time.sleep(TIMEOUT)


def pool(method: str, tasks_per_child: int | None = None) -> None:
    """A multiprocessing.Pool that comes to its end."""
    RuntimeMetrics.enable()
    context = multiprocessing.get_context(method)
    workers = context.Pool(2, target, [at_end_of_main], tasks_per_child)
    workers.map(task, range(6), chunksize=1)
    workers.close()
    workers.join()


def terminated_pool(method: str) -> None:
    """A multiprocessing.Pool, terminated while its workers work."""
    RuntimeMetrics.enable()
    workers = multiprocessing.get_context(method).Pool(2, target, [at_end_of_main])
    workers.map_async(long_task, range(2), chunksize=1)
    wait_until_reported("working", 2)
    workers.terminate()
    workers.join()


def executor(method: str) -> None:
    """A ProcessPoolExecutor."""
    RuntimeMetrics.enable()
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, context, target, (at_end_of_main,)) as workers:
        assert list(workers.map(task, range(6))) == [None] * 6


CAUSES: dict[str, Callable[[], None]] = {
    "end of the main module": enabled(at_end_of_main),
    "`sys.exit()`": enabled(lambda: sys.exit(3)),
    "unhandled exception": enabled(unhandled),
    "SIGINT (Ctrl-C)": enabled(partial(signalled, signal.SIGINT)),
    "SIGTERM, with a handler in Python that raises `SystemExit`": enabled(terminated_with_handler),
    "SIGTERM, without a handler": enabled(partial(signalled, signal.SIGTERM)),
    "SIGKILL": enabled(partial(signalled, signal.SIGKILL)),
    "SIGSEGV": enabled(partial(signalled, signal.SIGSEGV)),
    "`os._exit()`": enabled(lambda: os._exit(3)),
    "`os.exec*()`": enabled(lambda: os.execv(TRUE[0], TRUE)),
    "`RuntimeMetrics.disable()`, then any exit": enabled(RuntimeMetrics.disable),
    "child of `os.fork()` that ends normally": forked(at_end_of_main),
    "child of `os.fork()` that calls `os._exit()`": forked(lambda: os._exit(0)),
}

# By the start method of multiprocessing.
CAUSES_OF_WORKERS: dict[str, Callable[[str], None]] = {
    "`multiprocessing.Process` that ends normally": partial(process, at_end_of_main),
    "`multiprocessing.Process` that raises": partial(process, unhandled),
    "`multiprocessing.Process` after `terminate()`": partial(process, partial(signalled, signal.SIGTERM)),
    "worker of a `multiprocessing.Pool` after `close()`": pool,
    "worker of a `multiprocessing.Pool`, recycled by `maxtasksperchild`": partial(pool, tasks_per_child=1),
    "worker of a `multiprocessing.Pool` after `terminate()`": terminated_pool,
    "worker of a `concurrent.futures.ProcessPoolExecutor`": executor,
}

if __name__ == "__main__":
    gc.disable()
    cause, *methods = sys.argv[1:]
    if methods:
        CAUSES_OF_WORKERS[cause](*methods)
    else:
        CAUSES[cause]()
