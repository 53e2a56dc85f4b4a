"""Enables the standard level, runs event loops as the command line names it, and flushes before and after.

The second word of the command line may be `uvloop`. Prints what it has measured itself, as JSON.
"""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import gc
import json
import logging
import os
import random
import selectors
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from runtime_metrics import RuntimeMetrics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Figures = dict[str, Any]

TIMEOUT = 20.0
BLOCK = float(os.environ.get("BLOCK", "0.1"))


def enable(**arguments: float) -> None:
    """Enables the standard level; the loop that runs this code is observed from now on."""
    RuntimeMetrics.enable(**{"flush_interval": 3600, "level": "standard", **arguments})  # type: ignore[arg-type]


def flush() -> None:
    """Sends what was observed since the last flush."""
    assert RuntimeMetrics.flush()


def is_observed(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether our function stands in place of `select` of the loop's selector."""
    return "select" in vars(loop._selector)  # type: ignore[attr-defined]


def await_that(condition: Callable[[], bool], what: str) -> None:
    """Waits until a condition holds, and has the interpreter asked meanwhile."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, what
        RuntimeMetrics.snapshot()
        time.sleep(0.01)


def observed(work: Callable[[], Awaitable[Figures | None]]) -> Callable[[], None]:
    """A program in whose loop this is done between two flushes."""

    async def main() -> None:
        enable()
        flush()
        figures = await work()
        flush()
        RuntimeMetrics.disable()
        print(json.dumps(figures))

    return lambda: run(main())


def run(main: Awaitable[None]) -> None:
    """Runs a coroutine in a new loop of the kind that was asked for."""
    if sys.argv[2:] == ["uvloop"]:
        import uvloop

        uvloop.run(main)
    else:
        asyncio.run(main)  # type: ignore[arg-type]


async def blocking() -> Figures:
    """Makes a call that blocks, and releases the GIL, between others that do not."""
    await asyncio.sleep(0.05)
    began = time.monotonic()
    time.sleep(BLOCK)
    blocked = time.monotonic() - began
    await asyncio.sleep(1)
    return {"blocked": blocked}


async def computing() -> Figures:
    """Computes for moments that follow each other."""
    longest, end = 0.0, time.monotonic() + 4
    while time.monotonic() < end:
        began = time.monotonic()
        while time.monotonic() < began + BLOCK:
            sum(range(100))
        longest = max(longest, time.monotonic() - began)
        await asyncio.sleep(0)
    return {"blocked": longest}


async def idle() -> None:
    """Has hardly anything to do."""
    for _ in range(20):
        await asyncio.sleep(0.05)


async def holding() -> None:
    """Waits while another thread calls a C function that keeps the GIL."""

    def hold() -> None:
        time.sleep(0.3)
        ctypes.PyDLL(None).usleep(3_000_000)

    thread = threading.Thread(target=hold)
    thread.start()
    await asyncio.sleep(3.5)
    thread.join()


async def busy_thread() -> None:
    """Waits while another thread computes."""
    end = time.monotonic() + 1

    def compute() -> None:
        while time.monotonic() < end:
            sum(range(100))

    thread = threading.Thread(target=compute)
    thread.start()
    while time.monotonic() < end:
        await asyncio.sleep(0.02)
    thread.join()


async def varied() -> Figures:
    """Blocks for moments of different lengths, which it measures."""
    chance, lengths, began = random.Random(5), [], time.monotonic()
    for _ in range(60):
        start = time.monotonic()
        time.sleep(chance.uniform(0.002, 0.05))
        lengths.append(time.monotonic() - start)
        await asyncio.sleep(chance.uniform(0.0, 0.02))
    return {"lengths": lengths, "wall": time.monotonic() - began}


KEPT: list[object] = []


async def tasks() -> Figures:
    """Creates tasks that never end."""
    waiting = [asyncio.ensure_future(asyncio.Event().wait()) for _ in range(50)]
    await asyncio.sleep(0)
    for task in waiting[25:]:
        task.cancel()
    await asyncio.wait(waiting[25:])
    del waiting[25:]
    KEPT.extend(waiting)
    return {"tasks": len(asyncio.all_tasks())}


async def threads() -> Figures:
    """Creates threads, and no tasks."""
    end = threading.Event()
    for _ in range(50):
        threading.Thread(target=end.wait, daemon=True).start()
    return {"tasks": len(asyncio.all_tasks())}


def two_loops() -> None:
    """Runs a loop that blocks and one that does not, each in a thread of its own."""
    loops: list[asyncio.AbstractEventLoop] = []
    end = threading.Event()

    async def calm() -> None:
        loops.append(asyncio.get_running_loop())
        while not end.is_set():
            await asyncio.sleep(0.05)

    async def blocked() -> None:
        loops.append(asyncio.get_running_loop())
        while not end.is_set():
            time.sleep(BLOCK)
            await asyncio.sleep(BLOCK)

    enable()
    running = [threading.Thread(target=asyncio.run, args=(main(),)) for main in (calm, blocked)]
    for thread in running:
        thread.start()
    await_that(lambda: len(loops) == 2 and all(map(is_observed, loops)), "a loop was not found")
    flush()
    time.sleep(2)
    flush()
    end.set()
    for thread in running:
        thread.join()
    RuntimeMetrics.disable()
    print(json.dumps(None))


def found() -> None:
    """Starts a loop after metrics, whose ticks are to find it."""
    enable(flush_interval=0.5)

    async def main() -> None:
        for _ in range(100):
            await asyncio.sleep(0.05)

    run(main())
    RuntimeMetrics.disable()
    print(json.dumps(None))


def callbacks() -> None:
    """Runs a loop without tasks, which collections find."""
    enable(flush_interval=0.5)
    loop = asyncio.new_event_loop()
    end = time.monotonic() + TIMEOUT

    def again() -> None:
        gc.collect()
        if is_observed(loop) or time.monotonic() > end:
            loop.stop()
        else:
            loop.call_later(0.01, again)

    loop.call_soon(again)
    loop.run_forever()
    print(json.dumps({"observed": is_observed(loop)}))
    loop.close()
    RuntimeMetrics.disable()


def interrupted() -> None:
    """Runs a loop again and again, and does something else in between."""
    loop = asyncio.new_event_loop()

    async def part() -> None:
        enable()
        await asyncio.sleep(0.01)

    loop.run_until_complete(part())
    flush()
    for _ in range(3):
        loop.run_until_complete(part())
        time.sleep(0.5)
    flush()
    loop.close()
    RuntimeMetrics.disable()
    print(json.dumps(None))


def stopped() -> None:
    """Calls a C function that keeps the GIL, after a loop that is not closed."""

    async def part() -> None:
        enable(flush_interval=0.3)
        await asyncio.sleep(0.2)

    if sys.argv[2:] == ["uvloop"]:
        import uvloop

        loop = uvloop.new_event_loop()
    else:
        loop = asyncio.new_event_loop()
    # The second run of the loop is noticed as the first is.
    for _ in range(2):
        loop.run_until_complete(part())
        # Nothing that asks the interpreter comes in between.
        ctypes.PyDLL(None).usleep(1_500_000)
        flush()
    loop.close()
    RuntimeMetrics.disable()
    print(json.dumps(None))


async def nested() -> None:
    """Runs the loop within a callback of it, as nest_asyncio does."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    done = loop.create_future()
    loop.call_later(0.3, done.set_result, None)
    asyncio.tasks._leave_task(loop, task)
    while not done.done():
        loop._run_once()  # type: ignore[attr-defined]
    asyncio.tasks._enter_task(loop, task)
    await asyncio.sleep(0.1)


async def forking() -> None:
    """Forks; the child runs a loop of its own, which blocks."""
    if (child := os.fork()) == 0:
        asyncio.events._set_running_loop(None)
        flush()

        async def main() -> None:
            RuntimeMetrics.snapshot()
            time.sleep(1)
            await asyncio.sleep(0.1)
            flush()

        asyncio.new_event_loop().run_until_complete(main())
        os._exit(0)
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        await asyncio.sleep(0.01)


async def forked() -> None:
    """Forks; the child runs a loop of its own, or goes on with this one. There a task fails, and a call blocks."""
    (kind,) = sys.argv[2:]
    logging.getLogger("asyncio").disabled = True
    gc.disable()
    loop = asyncio.get_running_loop()
    for _ in range(3):
        gc.collect()

    async def fail() -> None:
        raise ValueError

    async def child() -> None:
        flush()
        assert is_observed(asyncio.get_running_loop())
        gc.collect()
        failing = asyncio.create_task(fail())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        del failing
        time.sleep(0.2)
        await asyncio.sleep(0)
        flush()

    if (pid := os.fork()) == 0:
        status = 1
        try:
            if kind == "own":
                asyncio.events._set_running_loop(None)
                asyncio.new_event_loop().run_until_complete(child())
            else:
                asyncio.events._set_running_loop(loop)
                await child()
            status = 0
        finally:
            os._exit(status)
    while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):
        await asyncio.sleep(0.01)
    assert ended == (pid, 0)
    assert is_observed(loop)


def full_pool() -> None:
    """Gives a pool of threads more than it can do at once, and another less."""
    enable()
    end = threading.Event()
    with ThreadPoolExecutor(2) as full, ThreadPoolExecutor(4) as other:
        for _ in range(10):
            full.submit(end.wait)
        other.submit(end.wait)
        await_that(lambda: full._work_queue.qsize() == 8, "the pool does not begin")
        # What is no queue hides none.
        queues: Any = sys.modules["concurrent.futures.thread"].__dict__["_threads_queues"]
        queues[threading.current_thread()] = object()
        flush()
        del queues[threading.current_thread()]
        end.set()
    RuntimeMetrics.disable()
    print(json.dumps(None))


def busy_pool() -> None:
    """Gives a pool of threads as much as it can do at once."""
    enable()
    end = threading.Event()
    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(end.wait)
        await_that(lambda: pool._work_queue.qsize() == 0, "the pool does not begin")
        flush()
        end.set()
    RuntimeMetrics.disable()
    print(json.dumps(None))


def full_limiter() -> None:
    """Gives anyio, which has 40 threads, more than it can do at once."""
    import anyio.to_thread

    end = threading.Event()

    async def main() -> None:
        enable()
        waiting = [asyncio.ensure_future(anyio.to_thread.run_sync(end.wait)) for _ in range(45)]
        limiter = anyio.to_thread.current_default_thread_limiter()
        while limiter.statistics().tasks_waiting < 5:
            await asyncio.sleep(0.01)
        flush()
        end.set()
        await asyncio.wait(waiting)
        flush()

    asyncio.run(main())
    RuntimeMetrics.disable()
    print(json.dumps(None))


def patched() -> None:
    """Runs a loop in a greenlet."""
    from gevent import monkey

    monkey.patch_all()

    async def main() -> None:
        enable()
        await asyncio.sleep(0.1)
        flush()

    asyncio.run(main())
    RuntimeMetrics.disable()
    print(json.dumps(None))


def no_pool() -> None:
    """Has no pool of threads."""
    enable()
    flush()
    RuntimeMetrics.disable()
    print(json.dumps(None))


class OtherSelector(selectors.DefaultSelector):
    """A selector that is not one of the standard library."""


def disabled() -> None:
    """Disables in the loop's own thread and in another; nothing of ours stays in a loop."""

    def timers(loop: asyncio.AbstractEventLoop) -> list[str]:
        scheduled = loop._scheduled  # type: ignore[attr-defined]
        return [repr(timer) for timer in scheduled if not timer.cancelled()]

    async def own_thread() -> None:
        loop = asyncio.get_running_loop()
        original = loop._selector.select  # type: ignore[attr-defined]
        enable()
        assert loop._selector.select != original  # type: ignore[attr-defined]
        RuntimeMetrics.disable()
        assert loop._selector.select == original  # type: ignore[attr-defined]
        assert not is_observed(loop)
        assert timers(loop) == []

    async def replaced() -> None:
        loop = asyncio.get_running_loop()
        enable()
        ours = loop._selector.select  # type: ignore[attr-defined]
        calls = []

        def theirs(timeout: float | None = None) -> object:
            calls.append(timeout)
            return ours(timeout=timeout)

        loop._selector.select = theirs  # type: ignore[attr-defined]
        await asyncio.sleep(0.01)
        RuntimeMetrics.disable()
        await asyncio.sleep(0.01)
        assert loop._selector.select is theirs  # type: ignore[attr-defined]
        assert len(calls) >= 2

    async def beating() -> None:
        loop = asyncio.get_running_loop()
        enable()
        (timer,) = timers(loop)
        assert "Beat" in timer
        RuntimeMetrics.disable()
        assert timers(loop) == []
        enable()
        assert len(timers(loop)) == 1
        await loop.run_in_executor(None, RuntimeMetrics.disable)
        await asyncio.sleep(0.01)
        assert timers(loop) == []

    asyncio.run(own_thread())
    asyncio.run(replaced())
    loop = asyncio.SelectorEventLoop(OtherSelector())
    loop.run_until_complete(beating())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    print(json.dumps(None))


class HandleWithoutWeakReferences:
    """Cancels a call, and cannot be referred to weakly, as in loops that are not written in Python."""

    __slots__ = ("handle",)

    def __init__(self, handle: asyncio.TimerHandle) -> None:
        """Takes the handle of the call."""
        self.handle = handle

    def cancel(self) -> None:
        """Cancels the call."""
        self.handle.cancel()


class OtherLoop(asyncio.SelectorEventLoop):
    """A loop with handles of its own for what is ours."""

    beats = 0

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Any, *args: Any, **context: Any
    ) -> Any:
        """Counts our calls."""
        handle = super().call_later(delay, callback, *args, **context)
        if "Beat" not in repr(callback):
            return handle
        self.beats += 1
        return HandleWithoutWeakReferences(handle)


def unreferenceable() -> None:
    """Disables in a loop whose handles cannot be referred to weakly."""

    async def main() -> None:
        enable()
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, OtherLoop)
        deadline = time.monotonic() + TIMEOUT
        while loop.beats < 3 and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        RuntimeMetrics.disable()
        (beat,) = (timer for timer in loop._scheduled if "Beat" in repr(timer))  # type: ignore[attr-defined]
        beats = loop.beats
        while beat in loop._scheduled and time.monotonic() < deadline:  # type: ignore[attr-defined]
            await asyncio.sleep(0.01)
        assert beats == loop.beats >= 3

    loop = OtherLoop(OtherSelector())
    loop.run_until_complete(main())
    loop.close()
    print(json.dumps(None))


def raced() -> None:
    """Disables in one thread while a loop is being found in another."""
    inside, disabled = threading.Event(), threading.Event()

    class Loop(asyncio.SelectorEventLoop):
        def get_exception_handler(self) -> Any:
            if not inside.is_set():
                inside.set()
                assert disabled.wait(TIMEOUT)
            return super().get_exception_handler()

    async def main() -> None:
        RuntimeMetrics.snapshot()

    enable()
    loop = Loop()
    thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
    thread.start()
    assert inside.wait(TIMEOUT)
    RuntimeMetrics.disable()
    disabled.set()
    thread.join()
    assert not is_observed(loop)
    assert loop.get_exception_handler() is None
    loop.close()
    print(json.dumps(None))


def closed() -> None:
    """Closes loops, one after the other, whose handlers of exceptions refer to them; each was observed."""
    gone: list[weakref.ref[Any]] = []
    enable()

    class App:
        def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
            self.loop = loop
            loop.set_exception_handler(self.handle)

        def handle(self, *_: object) -> None:
            """Has nothing to do."""

    async def main(app: App) -> None:
        RuntimeMetrics.snapshot()
        assert app.loop.get_exception_handler() != app.handle

    def run_one() -> None:
        loop = asyncio.SelectorEventLoop(OtherSelector()) if len(gone) % 2 else asyncio.new_event_loop()
        app = App(loop)
        loop.run_until_complete(main(app))
        loop.close()
        gone.extend((weakref.ref(loop), weakref.ref(app)))

    for _ in range(4):
        run_one()
    gc.collect()
    assert [reference() for reference in gone] == [None] * len(gone)
    RuntimeMetrics.disable()
    print(json.dumps(None))


def many_closed() -> None:
    """Closes loops that have a beat, and keeps them: the next one has room."""
    enable()
    loops = []

    async def main() -> int:
        RuntimeMetrics.snapshot()
        scheduled = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
        return sum("Beat" in repr(timer) for timer in scheduled)

    def run_one() -> int:
        loops.append(asyncio.SelectorEventLoop(OtherSelector()))
        return loops[-1].run_until_complete(main())

    beats = [run_one() for _ in range(9)]
    assert beats == [1] * 8 + [0]
    for loop in loops[:8]:
        loop.close()
    RuntimeMetrics.snapshot()
    flush()
    assert loops[-1].run_until_complete(main()) == 1
    loops[-1].close()
    RuntimeMetrics.disable()
    print(json.dumps(None))


def crowded() -> None:
    """Runs more loops than are observed, and later some of them alone."""
    enable()

    async def main() -> tuple[bool, int]:
        RuntimeMetrics.snapshot()
        loop = asyncio.get_running_loop()
        return is_observed(loop), len(loop._scheduled)  # type: ignore[attr-defined]

    loops = [asyncio.new_event_loop() for _ in range(66)]
    assert [loop.run_until_complete(main()) for loop in loops] == [(True, 0)] * 64 + [(False, 0)] * 2
    for loop in loops[:64]:
        loop.close()
    RuntimeMetrics.snapshot()
    flush()
    assert loops[-1].run_until_complete(main()) == (True, 0)
    for loop in loops[64:]:
        loop.close()
    RuntimeMetrics.disable()
    print(json.dumps(None))


def beside_many_tasks() -> None:
    """Runs a loop with a task beside one with very many."""
    loops: list[asyncio.AbstractEventLoop] = []
    end = threading.Event()

    async def few() -> None:
        loops.append(asyncio.get_running_loop())
        while not end.is_set():
            await asyncio.sleep(0.01)

    async def many() -> None:
        waiting = [asyncio.ensure_future(asyncio.sleep(3600)) for _ in range(3000)]
        await few()
        for task in waiting:
            task.cancel()

    running = [threading.Thread(target=asyncio.run, args=(work(),)) for work in (many, few)]
    for thread in running:
        thread.start()
    deadline = time.monotonic() + TIMEOUT
    while len(loops) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    enable()
    await_that(lambda: all(map(is_observed, loops)), "a loop was not found")
    end.set()
    for thread in running:
        thread.join()
    RuntimeMetrics.disable()
    print(json.dumps(None))


def contexts() -> None:
    """Enables in a task whose context has an object."""
    variable: contextvars.ContextVar[object] = contextvars.ContextVar("variable")

    class Request:
        """Can be referred to weakly."""

    async def handle() -> weakref.ref[Request]:
        request = Request()
        variable.set(request)
        enable()
        return weakref.ref(request)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        request = await asyncio.create_task(handle())
        assert any("Beat" in repr(timer) for timer in loop._scheduled)  # type: ignore[attr-defined]
        # The task's own callbacks, which have its context, are done then.
        await asyncio.sleep(0)
        gc.collect()
        assert request() is None

    loop = asyncio.SelectorEventLoop(OtherSelector())
    loop.run_until_complete(main())
    loop.close()
    RuntimeMetrics.disable()
    print(json.dumps(None))


def last_iteration() -> None:
    """Blocks, and disables in the same iteration."""

    async def main() -> None:
        enable()
        await asyncio.sleep(0.01)
        time.sleep(0.5)
        RuntimeMetrics.disable()

    run(main())
    print(json.dumps(None))


def nested_runs() -> None:
    """Runs a loop again within its callbacks, with what nest_asyncio does to a loop."""

    async def main() -> None:
        enable()
        flush()
        loop: Any = asyncio.get_running_loop()
        loop._num_runs_pending = 1
        await asyncio.sleep(0.01)
        for _ in range(3):
            time.sleep(0.3)
            run_before, loop._thread_id, loop._num_runs_pending = loop._thread_id, threading.get_ident(), 2
            loop.call_soon(int)
            loop._run_once()
            loop._thread_id, loop._num_runs_pending = run_before, 1
            await asyncio.sleep(0)
        flush()
        RuntimeMetrics.disable()

    run(main())
    print(json.dumps(None))


def unobserved() -> None:
    """Enables the default level, which leaves loops alone."""

    async def main() -> None:
        RuntimeMetrics.enable(flush_interval=3600)
        flush()
        assert not is_observed(asyncio.get_running_loop())
        RuntimeMetrics.disable()

    asyncio.run(main())
    print(json.dumps(None))


OBSERVED = (blocking, computing, idle, holding, busy_thread, varied, tasks, threads, nested, forking, forked)
PROGRAMS: dict[str, Callable[[], None]] = {
    **{work.__name__: observed(work) for work in OBSERVED},
    **{
        program.__name__: program
        for program in (
            two_loops,
            found,
            callbacks,
            interrupted,
            stopped,
            full_pool,
            busy_pool,
            full_limiter,
            no_pool,
            patched,
            disabled,
            unreferenceable,
            raced,
            closed,
            many_closed,
            crowded,
            beside_many_tasks,
            contexts,
            last_iteration,
            nested_runs,
            unobserved,
        )
    },
}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]]()
