"""Threads use us at once, with a GIL and without: nothing is lost, and nothing of ours is left behind."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import shutil
import subprocess
import sys
import types
import zipfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runtime_metrics import RuntimeMetrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from receiving import Flushes

ROOT = Path(__file__).parent.parent
PROGRAMS = ROOT / "tests" / "programs"
SECONDS = float(os.environ.get("SECONDS_AT_ONCE", "4"))

Hook = Any


def run(python: str, program: str, *words: str, packages: str | None = None) -> dict[str, Any]:
    """Runs a program that may write nothing to standard error; returns what it reports."""
    command = [python, "-W", "error", "-X", "faulthandler", str(PROGRAMS / program), *words]
    environment = os.environ if packages is None else os.environ | {"PYTHONPATH": packages}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS + 300
    )
    assert (done.returncode, done.stderr) == (0, "")
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


@pytest.fixture(scope="module")
def free_threaded(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """Runs a program in a free-threaded build with our package."""
    unpacked = ROOT / ".platforms" / "python3.14t" / "bin" / "python3.14t"
    python = shutil.which("python3.14t") or (str(unpacked) if unpacked.exists() else None)
    wheels = list(ROOT.glob("dist/wheels/*-cp314-cp314t-manylinux*_x86_64.whl"))
    changed = max(file.stat().st_mtime for file in (ROOT / "src").rglob("*.rs"))
    if python is None or not any(wheel.stat().st_mtime > changed for wheel in wheels):
        pytest.skip("no free-threaded CPython with a wheel of this source: tools/freethreaded.py")
    packages = tmp_path_factory.mktemp("packages")
    with zipfile.ZipFile(max(wheels, key=lambda wheel: wheel.stat().st_mtime)) as archive:
        archive.extractall(packages)
    return lambda program, *words: run(python, program, *words, packages=str(packages))


@pytest.fixture(params=["with a GIL", "free-threaded"])
def run_at_once(request: pytest.FixtureRequest) -> Callable[[], dict[str, Any]]:
    """Runs threads that use us at once."""
    if request.param == "with a GIL":
        return lambda: run(sys.executable, "at_once.py", str(SECONDS))
    run_without: Callable[..., dict[str, Any]] = request.getfixturevalue("free_threaded")
    return lambda: run_without("at_once.py", str(SECONDS))


@pytest.mark.timeout(SECONDS + 600)
def test_threads_do_everything_at_once(run_at_once: Callable[[], dict[str, Any]]) -> None:
    facts = run_at_once()
    assert facts["wrong"] == []
    done = facts["done"]
    assert min(done[what] for what in ("enable", "fork", "collection", "snapshot", "hook")) > 0


@pytest.mark.parametrize(("level", "some"), [("default", "gc.pause.max"), ("standard", "gil.reenabled")])
def test_a_family_without_a_gil(free_threaded: Callable[..., dict[str, Any]], level: str, some: str) -> None:
    facts = free_threaded("two_forks.py", level)
    assert facts["is_gil_enabled"] is False
    assert facts["statuses"] == [0, 0]
    assert len(facts["names"]) == 3
    assert len(set(facts["names"])) == 1
    assert f"runtime.python.{some}" in facts["all"]
    # To count them is not safe there.
    assert "runtime.python.mem.python.blocks" not in facts["all"]


@pytest.fixture
def while_disabling(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Callable[[], None]]]:
    """What is called in the middle of disable(), as another thread could be running then.

    Until the last values are read nothing is removed. A tracer is asked for some.
    """
    calls: list[Callable[[], None]] = []

    class Provider:
        @property
        def resource(self) -> None:
            if not RuntimeMetrics._enabled and calls:
                calls.pop()()

    module = types.ModuleType("opentelemetry.trace")
    module._TRACER_PROVIDER = Provider()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", module)
    yield calls
    RuntimeMetrics.disable()


def ours() -> int:
    """How many callbacks of ours collections call."""
    owners = [getattr(entry, "__self__", None) for entry in gc.callbacks]
    return sum(type(owner).__name__ == "GcCallback" for owner in owners)


def test_metrics_that_are_enabled_while_they_are_disabled_leave_nothing_behind(
    flushes: Flushes, while_disabling: list[Callable[[], None]]
) -> None:
    hooks = [sys.excepthook, sys.unraisablehook]
    counts = []

    def enable() -> None:
        RuntimeMetrics.enable(dogstatsd_url=flushes.url, flush_interval=3600, level="standard")
        RuntimeMetrics.flush()
        counts.append(ours())

    async def work() -> list[Hook]:
        event_loop = asyncio.get_running_loop()
        enable()
        # The loop calls us soon.
        for _ in range(20):
            await asyncio.sleep(0.01)
        assert event_loop.get_exception_handler() is not None
        while_disabling.append(enable)
        RuntimeMetrics.disable()
        assert RuntimeMetrics._enabled
        counts.append(ours())
        gc.collect()
        assert RuntimeMetrics.snapshot()["runtime.python.gc.collections.gen2"] >= 1
        RuntimeMetrics.disable()
        return [event_loop.get_exception_handler(), vars(vars(event_loop)["_selector"]).get("select")]

    assert asyncio.run(work()) == [None, None]
    assert counts == [1, 1, 1]
    assert ours() == 0
    assert hooks == [sys.excepthook, sys.unraisablehook]


def test_a_child_that_is_forked_while_metrics_are_disabled_has_nothing_of_ours(
    flushes: Flushes, while_disabling: list[Callable[[], None]]
) -> None:
    hook, statuses = sys.unraisablehook, []

    def fork() -> None:
        if (pid := os.fork()) == 0:
            os._exit(ours() + 10 * (sys.unraisablehook is not hook))
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    RuntimeMetrics.enable(dogstatsd_url=flushes.url, flush_interval=3600, level="standard")
    while_disabling.append(fork)
    RuntimeMetrics.disable()
    assert statuses == [0]


async def is_handled(event_loop: asyncio.AbstractEventLoop, url: str) -> None:
    """Enables metrics, until the loop has a handler of ours."""
    RuntimeMetrics.enable(dogstatsd_url=url, flush_interval=3600, level="standard")
    RuntimeMetrics.flush()
    for _ in range(500):
        if event_loop.get_exception_handler() is not None:
            return
        await asyncio.sleep(0.01)
    raise AssertionError


def test_a_loops_handler_is_removed_in_one_step(flushes: Flushes) -> None:
    class Loop(asyncio.SelectorEventLoop):
        """Another thread could set a handler wherever its Python code runs."""

        calls = 0

        def get_exception_handler(self) -> Hook:
            self.calls += 1
            return super().get_exception_handler()

        def set_exception_handler(self, handler: Hook) -> None:
            self.calls += 1
            super().set_exception_handler(handler)

    async def work(event_loop: Loop) -> None:
        await is_handled(event_loop, flushes.url)
        event_loop.calls = 0
        RuntimeMetrics.disable()
        assert event_loop.calls == 0
        assert event_loop.get_exception_handler() is None

    with closing(Loop()) as event_loop:
        event_loop.run_until_complete(work(event_loop))


def test_a_loop_that_wraps_its_handler_gets_its_own_back(flushes: Flushes) -> None:
    class Loop(asyncio.SelectorEventLoop):
        handler: Hook = None

        def get_exception_handler(self) -> Hook:
            return self.handler

        def set_exception_handler(self, handler: Hook) -> None:
            self.handler = handler
            super().set_exception_handler(handler and (lambda *words: handler(*words)))

    async def work(event_loop: Loop) -> None:
        await is_handled(event_loop, flushes.url)
        RuntimeMetrics.disable()
        assert event_loop.get_exception_handler() is None

    with closing(Loop()) as event_loop:
        event_loop.run_until_complete(work(event_loop))


def test_where_no_free_threaded_build_can_be_had_one_line_says_why(tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    for name in ("freethreaded.py", "debian.py"):
        shutil.copy(ROOT / "tools" / name, tmp_path / "tools")
    command = [sys.executable, str(tmp_path / "tools" / "freethreaded.py"), "interpreter"]
    done = subprocess.run(command, env={"PATH": ""}, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr in (
        "no free-threaded CPython: it takes apt-get to put one together\n",
        "no free-threaded CPython: one can be fetched for Linux on x86_64 only\n",
    )


@pytest.mark.skipif(sys.platform != "linux", reason="one can be fetched for Linux only")
def test_the_free_threaded_build_may_be_moved_and_linked_to(tmp_path: Path) -> None:
    program = tmp_path / "here" / "bin" / "program"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\necho "$PYTHONHOME $LD_PRELOAD $*"\n')
    program.chmod(0o755)
    write = "import freethreaded, pathlib, sys; freethreaded.write_command(pathlib.Path(sys.argv[1]))"
    command = [sys.executable, "-c", write, str(program.with_name("python3.14t"))]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT / "tools")}, check=True, timeout=60)
    home = program.parent.parent.rename(tmp_path / "there")
    link = tmp_path / "python"
    link.symlink_to(home / "bin" / "python3.14t")
    done = subprocess.run([link, "-c", "pass"], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == f"{home} {home}/main.so -c pass\n"
