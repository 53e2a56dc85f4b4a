"""Exceptions that nothing handles are counted, and everything else about them stays as it was."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import subprocess
import sys
import sysconfig
import textwrap
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from catalogue_names import checks
from launching import each_version
from serving import SERVERS, need

from runtime_metrics import RuntimeMetrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import InstalledIn, RunProgram
    from receiving import Flush, Flushes

PROGRAM = Path(__file__).parent / "programs" / "uncaught.py"
UNCAUGHT = re.compile(r"exceptions\.uncaught\{source:(\w+)\}")

# What each program has left uncaught, by source, and its exit status.
INCIDENTS: dict[str, tuple[dict[str, int], int]] = {
    "failing_thread": ({"thread": 1}, 0),
    "exiting_thread": ({}, 0),
    "interrupted_thread": ({}, 0),
    "finaliser": ({"unraisable": 1}, 0),
    "interrupted_finaliser": ({}, 0),
    "main": ({"main": 1}, 1),
    "syntax_error": ({"main": 1}, 1),
    "suggestion": ({"main": 1}, 1),
    "unprintable": ({"main": 1}, 1),
    "recursion": ({"main": 1}, 1),
    "group": ({"main": 1}, 1),
    "exit_with_text": ({}, 1),
    "interrupted": ({}, -2),
    "handled": ({}, 0),
    "failing_hook": ({"main": 1}, 1),
    "chained": ({"main": 1}, 1),
    "not_chained": ({}, 1),
}


def uncaught(flush: Flush) -> dict[str, int]:
    """The exceptions of a flush, by source."""
    found = {
        match[1]: int(value) for name, value in flush.values.items() if (match := UNCAUGHT.fullmatch(name))
    }
    assert sum(name.startswith("exceptions.") for name in flush.values) == len(found)
    return found


ASYNCHRONOUS: dict[str, dict[str, int]] = {
    "lost_task": {"asyncio_never_retrieved": 1},
    "lost_future": {"asyncio_never_retrieved": 1},
    "awaited_task": {},
    "cancelled_task": {},
    "failing_callback": {},
    "handled_by_program": {"asyncio_never_retrieved": 1},
}


def run(
    incident: str, python: str | Path = sys.executable, *options: str, loop: str = "", **environment: str
) -> tuple[int, str]:
    """Runs the program; returns its exit status and what it wrote, where every run writes other addresses."""
    done = subprocess.run(
        [python, *options, str(PROGRAM), incident, *loop.split()],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout == ""
    return done.returncode, re.sub("0x[0-9a-f]+", "0x", done.stderr)


def assert_counted(flushes: Flushes, incident: str, *options: str) -> None:
    """Runs the program with and without metrics, and checks what it reports and that it does not differ."""
    expected, status = INCIDENTS[incident]
    measured = run(incident, *options, DD_DOGSTATSD_URL=flushes.url)
    assert measured == run(incident, *options)
    assert measured[0] == status
    first, last = flushes.rest()
    assert uncaught(first) == {"main": 0, "thread": 0, "unraisable": 0}
    assert uncaught(last) == expected


def assert_counted_in_loop(flushes: Flushes, incident: str, python: str | Path, loop: str = "") -> None:
    """The same for what happens in an event loop."""
    measured = run(incident, python, loop=loop, DD_DOGSTATSD_URL=flushes.url)
    assert measured == run(incident, python, loop=loop)
    assert measured[0] == 0
    first, last = flushes.rest()
    assert uncaught(first) == {"main": 0, "thread": 0, "unraisable": 0, "asyncio_never_retrieved": 0}
    assert uncaught(last) == ASYNCHRONOUS[incident]


@pytest.mark.parametrize("incident", ASYNCHRONOUS)
def test_what_no_one_retrieves_is_counted_and_logged_as_ever(flushes: Flushes, incident: str) -> None:
    assert_counted_in_loop(flushes, incident, sys.executable)


@each_version
def test_a_lost_task_on_every_version(flushes: Flushes, installed_in: InstalledIn, version: str) -> None:
    assert_counted_in_loop(flushes, "lost_task", installed_in(version))


@pytest.mark.servers
@pytest.mark.parametrize("incident", ASYNCHRONOUS)
def test_a_lost_task_of_uvloop(flushes: Flushes, incident: str) -> None:
    need("uvloop")
    assert_counted_in_loop(flushes, incident, SERVERS / "bin" / "python", "uvloop")


def test_a_loop_has_its_own_handler_again() -> None:
    def handler(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        contexts.append(context)

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        for own in (None, handler):
            loop.set_exception_handler(own)
            for _ in range(3):
                enable()
                ours = loop.get_exception_handler()
                RuntimeMetrics.flush()
                assert loop.get_exception_handler() is ours is not own
                RuntimeMetrics.disable()
                assert loop.get_exception_handler() is own
        # The program's own stays, and ours behind it hands on.
        enable()
        ours = loop.get_exception_handler()
        assert ours is not None
        loop.set_exception_handler(lambda loop, context: ours(loop, context))
        chained = loop.get_exception_handler()
        RuntimeMetrics.disable()
        assert loop.get_exception_handler() is chained
        loop.call_exception_handler(context := {"message": "mine"})
        assert contexts == [context]
        assert contexts[0] is context

    contexts: list[dict[str, Any]] = []
    asyncio.run(scenario())


def test_a_loop_that_is_observed_anew_counts_once(flushes: Flushes) -> None:
    async def lose_task() -> None:
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        lost.set_exception(ValueError("lost"))
        del lost
        gc.collect()

    async def scenario() -> None:
        loop: Any = asyncio.get_running_loop()
        reported: list[object] = []
        loop.set_exception_handler(lambda _, context: reported.append(context["message"]))
        RuntimeMetrics.enable(dogstatsd_url=flushes.url, flush_interval=3600, level="standard")
        ours = loop.get_exception_handler()
        loop.set_exception_handler(lambda loop, context: ours(loop, context))
        chained = loop.get_exception_handler()
        # What observes the loop is removed, and comes back at the next flush: with another handler of ours.
        loop._selector.__dict__.pop("select")
        assert RuntimeMetrics.flush()
        assert loop.get_exception_handler() not in (ours, chained)
        await lose_task()
        assert reported == ["Future exception was never retrieved"]
        RuntimeMetrics.disable()
        assert loop.get_exception_handler() is chained

    asyncio.run(scenario())
    assert uncaught(flushes.rest()[-1]) == {"asyncio_never_retrieved": 1}


def test_without_the_rows_of_event_loops_no_handler_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DD_RUNTIME_METRICS_EXCLUDE", "event_loop.*,stall.count")

    async def scenario() -> None:
        enable()
        RuntimeMetrics.flush()
        assert asyncio.get_running_loop().get_exception_handler() is None
        RuntimeMetrics.disable()

    asyncio.run(scenario())


@checks("runtime.python.exceptions.uncaught")
@pytest.mark.parametrize("incident", INCIDENTS)
def test_what_nothing_handles_is_counted_and_printed_as_ever(flushes: Flushes, incident: str) -> None:
    assert_counted(flushes, incident)


@each_version
@pytest.mark.parametrize(
    "incident", ["failing_thread", "finaliser", "main", "group", "suggestion", "exiting_thread"]
)
def test_on_every_version(flushes: Flushes, installed_in: InstalledIn, version: str, incident: str) -> None:
    assert_counted(flushes, incident, installed_in(version))


@each_version
def test_what_shows_exception_groups_finds_the_hook_of_the_interpreter_where_it_needs_it(
    flushes: Flushes, installed_in: InstalledIn, version: str, tmp_path: Path
) -> None:
    # As the library does.
    (tmp_path / "exceptiongroup.py").write_text("import sys\nfound = sys.excepthook is sys.__excepthook__\n")
    program = """
        import sys
        from runtime_metrics import RuntimeMetrics
        RuntimeMetrics.enable(flush_interval=3600, level="standard")
        import exceptiongroup
        RuntimeMetrics.flush()
        print(exceptiongroup.found, sys.excepthook is sys.__excepthook__)
        raise ValueError
    """
    done = subprocess.run(
        [installed_in(version), "-c", textwrap.dedent(program)],
        env=os.environ | {"DD_DOGSTATSD_URL": flushes.url, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout.split() == [str(version == "3.10"), "False"]
    *_, last = flushes.rest()
    assert uncaught(last)["main"] == 1


def test_an_interrupt_of_enable_leaves_nothing_behind(run_program: RunProgram, flushes: Flushes) -> None:
    run_program(
        """
        import asyncio, gc, signal, sys, threading
        from runtime_metrics import RuntimeMetrics

        class Loop(asyncio.SelectorEventLoop):
            is_armed = False

            def is_running(self):
                if self.is_armed and threading.current_thread() is threading.main_thread():
                    signal.raise_signal(signal.SIGINT)
                return super().is_running()

        loop, begun = Loop(), threading.Event()

        async def main():
            begun.set()
            await asyncio.sleep(60)

        threading.Thread(target=lambda: loop.run_until_complete(main()), daemon=True).start()
        begun.wait()
        loop.is_armed = True
        hook, callbacks = sys.excepthook, list(gc.callbacks)
        try:
            RuntimeMetrics.enable(flush_interval=3600, level="standard")
        except KeyboardInterrupt:
            assert (sys.excepthook, gc.callbacks) == (hook, callbacks)
            assert RuntimeMetrics.status()["state"] == "off"
        else:
            raise AssertionError
        """,
        DD_DOGSTATSD_URL=flushes.url,
    )


@pytest.mark.parametrize("option", [["-X", "dev"], ["-W", "error"], ["-I"]])
def test_options_change_nothing(flushes: Flushes, option: list[str]) -> None:
    assert_counted(flushes, "failing_thread", sys.executable, *option)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_counts_from_zero(flushes: Flushes) -> None:
    status, error = run("child", DD_DOGSTATSD_URL=flushes.url)
    assert (status, error.count("ValueError: in main")) == (0, 1)
    first, in_child, in_parent = flushes.rest()
    assert first.tag("runtime-id") == in_parent.tag("runtime-id") != in_child.tag("runtime-id")
    # Its first flush also shows that the others are watched.
    assert uncaught(in_child) == {"main": 1, "thread": 0, "unraisable": 0}
    assert uncaught(in_parent) == {"thread": 1}


def test_a_console_of_the_module_code_prints_through_the_hook(flushes: Flushes) -> None:
    # There its own frame is printed as well, up to 3.12, as with any hook but the interpreter's own.
    own_frame = re.compile(r'  File ".*code\.py", line [0-9]+, in runcode\n.*\n')
    status, error = run("console", DD_DOGSTATSD_URL=flushes.url)
    assert (status, own_frame.sub("", error)) == run("console")
    assert uncaught(flushes.rest()[-1]) == {"main": 1}


@pytest.fixture
def hooks() -> Iterator[Callable[[], list[Any]]]:
    """Reads the hooks; they are those of before when the test ends."""

    def read() -> list[Any]:
        return [sys.excepthook, threading.excepthook, sys.unraisablehook]

    before = read()
    yield read
    RuntimeMetrics.disable()
    sys.excepthook, threading.excepthook, sys.unraisablehook = before


def enable(level: Any = "standard") -> None:
    """Enables metrics that are sent nowhere."""
    RuntimeMetrics.enable(dogstatsd_url="udp://127.0.0.1:9", flush_interval=3600, level=level)


def test_at_the_default_level_no_hook_is_touched(hooks: Callable[[], list[Any]]) -> None:
    before = hooks()
    enable(level="default")
    RuntimeMetrics.flush()
    assert hooks() == before


def test_the_hooks_are_restored_however_often_they_were_installed(hooks: Callable[[], list[Any]]) -> None:
    before = hooks()
    for _ in range(3):
        enable()
        ours = hooks()
        enable()
        RuntimeMetrics.flush()
        assert hooks() == ours
        assert not set(ours) & set(before)
        RuntimeMetrics.disable()
        assert [now is then for now, then in zip(hooks(), before, strict=True)] == [True] * 3


@pytest.mark.usefixtures("hooks")
def test_a_hook_that_was_set_afterwards_stays_and_ours_behind_it_only_hands_on(flushes: Flushes) -> None:
    calls: list[tuple[str, object]] = []

    def hook(name: str, previous: Callable[..., object] | None) -> Callable[..., object]:
        def record(*arguments: object) -> object:
            calls.append((name, arguments))
            return previous(*arguments) if previous else name

        return record

    sys.excepthook = first = hook("first", None)
    RuntimeMetrics.enable(dogstatsd_url=flushes.url, flush_interval=3600, level="standard")
    sys.excepthook = second = hook("second", sys.excepthook)
    arguments = (ValueError, ValueError("x"), None)
    assert second(*arguments) == "first"
    RuntimeMetrics.disable()
    assert uncaught(flushes.next())["main"] == 1
    assert sys.excepthook is second
    RuntimeMetrics.enable(dogstatsd_url=flushes.url, flush_interval=3600, level="standard")
    # Ours is there twice now, and the older one does not count.
    assert sys.excepthook(*arguments) == "first"
    RuntimeMetrics.disable()
    assert uncaught(flushes.next())["main"] == 1
    assert sys.excepthook is second
    assert second(*arguments) == "first"
    assert calls == [("second", arguments), ("first", arguments)] * 3
    sys.excepthook = first


def test_a_hook_gets_the_same_arguments_and_what_it_raises_is_raised(hooks: Callable[[], list[Any]]) -> None:
    got: list[object] = []

    def raising(*arguments: object, **keywords: object) -> None:
        got.append((arguments, keywords))
        raise LookupError("mine")

    sys.excepthook = threading.excepthook = sys.unraisablehook = raising
    enable()
    calls: list[tuple[tuple[object, ...], dict[str, object]]] = [
        ((), {}),
        ((1,), {}),
        ((ValueError, None, None), {}),
        ((1, 2, 3, 4), {"five": 5}),
        ((ValueError(),), {"traceback": None}),
    ]
    for hook in hooks():
        for arguments, keywords in calls:
            with pytest.raises(LookupError, match="mine") as raised:
                hook(*arguments, **keywords)
            # No frame of ours is in between.
            assert [entry.name for entry in raised.traceback] == [
                "test_a_hook_gets_the_same_arguments_and_what_it_raises_is_raised",
                "raising",
            ]
    assert got == calls * 3


@pytest.mark.usefixtures("hooks")
def test_a_hook_that_is_none_or_missing_stays_so(flushes: Flushes) -> None:
    sys.unraisablehook = None  # type: ignore[assignment]
    del sys.excepthook
    RuntimeMetrics.enable(dogstatsd_url=flushes.url, flush_interval=3600, level="standard")
    assert RuntimeMetrics.flush()
    assert sys.unraisablehook is None
    assert not hasattr(sys, "excepthook")
    # What nothing counts is not known to be zero.
    assert uncaught(flushes.next()) == {"thread": 0}
    sys.excepthook = sys.__excepthook__


@pytest.mark.usefixtures("hooks")
def test_nothing_of_an_exception_is_kept() -> None:
    class KeptError(Exception):
        pass

    sys.excepthook = lambda *_: None
    threading.excepthook = lambda _: None
    enable()
    died: list[weakref.ref[KeptError]] = []

    def fail() -> None:
        error = KeptError()
        died.append(weakref.ref(error))
        raise error

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    try:
        fail()
    except KeptError:
        sys.excepthook(*sys.exc_info())
    gc.collect()
    assert [error() for error in died] == [None, None]


@pytest.mark.usefixtures("hooks")
def test_a_hook_that_refers_to_ours_is_freed() -> None:
    class Application:
        def hook(self, *_: object) -> None:
            pass

    application = Application()
    sys.excepthook = application.hook
    enable()
    application.ours = sys.excepthook  # type: ignore[attr-defined]
    sys.excepthook = sys.__excepthook__
    RuntimeMetrics.disable()
    freed = weakref.ref(application)
    del application
    gc.collect()
    assert freed() is None


def test_a_hook_may_disable_metrics(run_program: RunProgram, flushes: Flushes) -> None:
    printed = run_program(
        """
        import sys
        from runtime_metrics import RuntimeMetrics

        def hook(*_):
            RuntimeMetrics.disable()
            assert sys.excepthook is hook
            print("called")

        sys.excepthook = hook
        RuntimeMetrics.enable(level="standard")
        raise ValueError
        """,
        status=1,
        DD_DOGSTATSD_URL=flushes.url,
    )
    assert printed == "called\n"
    assert uncaught(flushes.next())["main"] == 1


def test_threading_may_be_imported_afterwards(run_program: RunProgram, flushes: Flushes) -> None:
    run_program(
        """
        import sys
        assert "threading" not in sys.modules
        from runtime_metrics import RuntimeMetrics
        RuntimeMetrics.enable(flush_interval=3600, level="standard")
        assert "threading" not in sys.modules
        import threading
        assert RuntimeMetrics.flush()
        sys.stderr = None
        thread = threading.Thread(target=lambda: 1 / 0)
        thread.start()
        thread.join()
        """,
        "-S",
        DD_DOGSTATSD_URL=flushes.url,
        PYTHONPATH=sysconfig.get_path("purelib"),
    )
    first, last = flushes.rest()
    assert uncaught(first) == {"main": 0, "thread": 0, "unraisable": 0}
    assert uncaught(last) == {"thread": 1}


SENTRY = """
import os, sys, threading
import sentry_sdk
from sentry_sdk.transport import Transport
from runtime_metrics import RuntimeMetrics

events = []

class Kept(Transport):
    def capture_envelope(self, envelope):
        events.extend(item.get_event() for item in envelope.items if item.get_event())

def sentry():
    sentry_sdk.init("http://key@localhost/1", transport=Kept, default_integrations=True)

def ours():
    RuntimeMetrics.enable(flush_interval=3600, level="standard")

for step in ORDER:
    {"sentry": sentry, "ours": ours}[step]()
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
previous = sys.excepthook
def report(*arguments):
    previous(*arguments)
    sentry_sdk.flush()
    print([event["exception"]["values"][0]["type"] for event in events])
sys.excepthook = report
raise ValueError("in main")
"""


@pytest.mark.servers
@pytest.mark.parametrize("order", [["sentry", "ours"], ["ours", "sentry"]])
def test_sentry_sees_what_we_count(flushes: Flushes, order: list[str]) -> None:
    need("sentry-sdk")
    done = subprocess.run(
        [SERVERS / "bin" / "python", "-c", SENTRY.replace("ORDER", repr(order))],
        env=os.environ | {"DD_DOGSTATSD_URL": flushes.url},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stdout == "['ZeroDivisionError', 'ValueError']\n"
    assert (done.stderr.count("ZeroDivisionError"), done.stderr.count("ValueError: in main")) == (1, 1)
    (last,) = flushes.rest()
    assert uncaught(last) == {"main": 1, "thread": 1, "unraisable": 0}


PYTEST = """
import gc, threading, sys
import pytest
from runtime_metrics import RuntimeMetrics

RuntimeMetrics.enable(flush_interval=3600, level="standard")

def test_thread():
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()

def test_finaliser():
    class Failing:
        def __del__(self):
            raise ValueError("in a finaliser")
    Failing()

def test_enabled_and_disabled_within():
    RuntimeMetrics.disable()
    RuntimeMetrics.enable(flush_interval=3600, level="standard")

def test_thread_again():
    test_thread()
"""


@pytest.mark.servers
def test_pytest_reports_what_ends_threads_and_finalisers(flushes: Flushes, tmp_path: Path) -> None:
    need("pytest")
    file = tmp_path / "test_it.py"
    file.write_text(textwrap.dedent(PYTEST))
    done = subprocess.run(
        [SERVERS / "bin" / "python", "-m", "pytest", "-p", "no:cacheprovider", "-q", str(file)],
        env=os.environ | {"DD_DOGSTATSD_URL": flushes.url},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("PytestUnhandledThreadExceptionWarning: ") == 2
    assert done.stdout.count("PytestUnraisableExceptionWarning: ") == 1
    before, after = map(uncaught, flushes.rest())
    # pytest's hooks call those before them no more: what they report is counted where ours were set later.
    assert before == {"main": 0, "thread": 1, "unraisable": 1}
    assert after == {"main": 0, "thread": 1, "unraisable": 0}
