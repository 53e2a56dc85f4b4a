"""Does what the command line names, which may end it; measured if DD_DOGSTATSD_URL is set.

It flushes before: what follows shows in the flush at its exit.
"""

from __future__ import annotations

import asyncio
import builtins
import code
import gc
import os
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from runtime_metrics import RuntimeMetrics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType


class UnprintableError(Exception):
    """It cannot be printed."""

    def __str__(self) -> str:
        """Raises another one."""
        raise RuntimeError("no text")


def in_thread(target: Callable[[], object]) -> None:
    """Runs it in a thread of its own, to its end."""
    thread = threading.Thread(target=target, name="worker")
    thread.start()
    thread.join()


def fail(error: BaseException) -> None:
    """Raises it, with a cause."""
    try:
        raise KeyError("cause")
    except KeyError as cause:
        raise error from cause


def failing_thread() -> None:
    """A thread ends by an exception."""
    in_thread(lambda: fail(ValueError("in a thread")))


def exiting_thread() -> None:
    """A thread ends by sys.exit()."""
    in_thread(lambda: sys.exit(3))


def interrupted_thread() -> None:
    """A thread ends by KeyboardInterrupt."""
    in_thread(lambda: fail(KeyboardInterrupt()))


def finaliser() -> None:
    """A finaliser raises."""

    class Failing:
        def __del__(self) -> None:
            fail(ValueError("in a finaliser"))

    Failing()


def interrupted_finaliser() -> None:
    """A finaliser raises KeyboardInterrupt."""

    class Failing:
        def __del__(self) -> None:
            fail(KeyboardInterrupt())

    Failing()


def main() -> None:
    """The program ends by an exception with a cause."""
    fail(ValueError("in main"))


def syntax_error() -> None:
    """The program ends by a SyntaxError."""
    compile("print('é'; )\n", "a file", "exec")


def suggestion() -> None:
    """The program ends by an exception for which Python has a suggestion."""
    thread = threading
    print(thread, thraed)  # type: ignore[name-defined] # noqa: F821


def unprintable() -> None:
    """The program ends by an exception that cannot be printed."""
    raise UnprintableError


def recursion() -> None:
    """The program ends by an exception with a long traceback."""
    recursion()


def group() -> None:
    """The program ends by groups of exceptions."""
    kind: Any = getattr(builtins, "ExceptionGroup", None)
    if kind is None:
        fail(ValueError("there are none yet"))
    raise kind("outer", [ValueError(0), kind("inner", [TypeError(1), KeyError(2)])])


def exit_with_text() -> None:
    """The program ends by sys.exit() with a text."""
    sys.exit("a text")


def interrupted() -> None:
    """The program ends by KeyboardInterrupt."""
    raise KeyboardInterrupt


def handled() -> None:
    """Exceptions are handled, in main and in a thread."""

    def attempt() -> None:
        with suppress(ValueError):
            fail(ValueError("handled"))

    attempt()
    in_thread(attempt)


def child() -> None:
    """A thread fails, and then the main thread of a child that is forked."""
    failing_thread()
    pid = os.fork()
    if pid == 0:
        main()
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 1


def failing_hook() -> None:
    """The program's own hook, set before, raises."""
    main()


def failing(*_: object) -> None:
    """A hook that raises."""
    raise RuntimeError("in a hook")


def console() -> None:
    """An interactive console, whose user makes a mistake."""
    code.InteractiveConsole().push("1 / 0")


def chained() -> None:
    """A hook that the program sets afterwards calls ours."""
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        print("mine first", file=sys.stderr)
        previous(kind, error, traceback)

    sys.excepthook = hook
    main()


def not_chained() -> None:
    """A hook that the program sets afterwards calls no other."""
    sys.excepthook = lambda *_: None
    main()


async def _failing() -> None:
    """A coroutine that raises."""
    fail(ValueError("in a task"))


async def lost_task() -> None:
    """A task raises, and nobody awaits it."""
    task = asyncio.ensure_future(_failing())
    await asyncio.wait([task])
    del task
    gc.collect()


async def lost_future() -> None:
    """A future has an exception, and nobody awaits it."""
    asyncio.get_running_loop().create_future().set_exception(ValueError("in a future"))
    gc.collect()


async def awaited_task() -> None:
    """A task raises, and is awaited."""
    task = asyncio.ensure_future(_failing())
    with suppress(ValueError):
        await task


async def cancelled_task() -> None:
    """A task is cancelled, and nobody awaits it."""
    task = asyncio.ensure_future(asyncio.sleep(60))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)


async def failing_callback() -> None:
    """A callback of the loop raises, which it reports otherwise."""
    asyncio.get_running_loop().call_soon(fail, ValueError("in a callback"))
    await asyncio.sleep(0)


async def handled_by_program() -> None:
    """The program handles what is lost, and calls the handler before it."""
    loop = asyncio.get_running_loop()
    previous = loop.get_exception_handler() or type(loop).default_exception_handler

    def handler(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        print("mine first", file=sys.stderr)
        previous(loop, context)

    loop.set_exception_handler(handler)
    await lost_task()


ASYNCHRONOUS: dict[str, Callable[[], Awaitable[None]]] = {
    incident.__name__: incident
    for incident in (
        lost_task,
        lost_future,
        awaited_task,
        cancelled_task,
        failing_callback,
        handled_by_program,
    )
}

INCIDENTS: dict[str, Callable[[], None]] = {
    incident.__name__: incident
    for incident in (
        failing_thread, exiting_thread, interrupted_thread, finaliser, interrupted_finaliser, main, syntax_error,
        suggestion, unprintable, recursion, group, exit_with_text, interrupted, handled, child, failing_hook,
        console, chained, not_chained,
    )
}  # fmt: skip


def measure() -> None:
    """Enables metrics."""
    if "DD_DOGSTATSD_URL" in os.environ:
        RuntimeMetrics.enable(flush_interval=3600, level="standard")
        assert RuntimeMetrics.flush()


def in_loop(incident: Callable[[], Awaitable[None]]) -> None:
    """Measures an event loop in which something happens."""

    async def run() -> None:
        measure()
        await incident()

    if len(sys.argv) > 2:
        __import__(sys.argv[2]).install()
    asyncio.run(run())


if __name__ == "__main__":
    if sys.argv[1] == "failing_hook":
        sys.excepthook = failing
    if sys.argv[1] in ASYNCHRONOUS:
        in_loop(ASYNCHRONOUS[sys.argv[1]])
    else:
        measure()
        INCIDENTS[sys.argv[1]]()
