"""From import to the interpreter's exit: what we do not change, and what happens at the end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from catalogue_names import (
    CERTAIN_NAMES,
    INTERPRETER_NAMES,
    PERCENT_NAMES,
    assert_complete,
    of_default_level,
)

if TYPE_CHECKING:
    from conftest import Preloaded, RunProgram
    from receiving import Flushes

ENABLE = "from runtime_metrics import RuntimeMetrics; RuntimeMetrics.enable()\n"


def test_import_has_no_effect(run_program: RunProgram) -> None:
    run_program(
        """
        import os, sys
        def threads_and_files():
            return os.listdir("/proc/self/task"), sorted(os.listdir("/proc/self/fd"))
        before = threads_and_files()
        modules = set(sys.modules)
        import runtime_metrics
        assert threads_and_files() == before
        assert not {"threading", "socket", "logging", "atexit"} & (set(sys.modules) - modules)
        import gc
        assert gc.callbacks == []
        """,
        "-S",
        PYTHONPATH=site_packages(),
    )


def test_two_threads_that_enable_at_once_install_one_set_of_hooks(
    run_program: RunProgram, flushes: Flushes
) -> None:
    printed = run_program(
        """
        import os, threading
        from runtime_metrics import RuntimeMetrics
        register, registered = os.register_at_fork, []
        def register_at_fork(**hooks):
            registered.append(sorted(hooks))
            if len(registered) == 1:
                # The other thread comes while this one installs them.
                other = threading.Thread(target=RuntimeMetrics.enable)
                other.start()
                other.join()
            register(**hooks)
        os.register_at_fork = register_at_fork
        RuntimeMetrics.enable()
        print(registered, RuntimeMetrics._enabled)
        """,
        DD_DOGSTATSD_URL=flushes.url,
    )
    assert printed == "[['after_in_child', 'after_in_parent', 'before']] True\n"
    assert_complete(*(flush.values for flush in flushes.rest()))


def test_running_adds_two_threads_and_imports_neither_threading_nor_socket(
    run_program: RunProgram, flushes: Flushes
) -> None:
    run_program(
        """
        import os, sys, time
        from runtime_metrics import RuntimeMetrics
        files = len(os.listdir("/proc/self/fd"))
        RuntimeMetrics.enable(flush_interval=0.01)
        def names():
            found = []
            for task in os.listdir("/proc/self/task"):
                with open(f"/proc/self/task/{task}/comm") as comm:
                    found.append(comm.read().strip())
            return sorted(found)[1:]
        # A thread has its name only once it runs.
        deadline = time.monotonic() + 20
        while names() != ["rtm-reader", "rtm-sampler"]:
            assert time.monotonic() < deadline, names()
        assert len(os.listdir("/proc/self/fd")) - files <= 4
        assert not {"threading", "socket", "logging"} & set(sys.modules), sys.modules
        RuntimeMetrics.disable()
        assert len(os.listdir("/proc/self/task")) == 1
        assert len(os.listdir("/proc/self/fd")) == files
        import gc
        assert gc.callbacks == []
        """,
        "-S",
        PYTHONPATH=site_packages(),
        DD_DOGSTATSD_URL=flushes.url,
    )
    # The last sample does not wait for the busy interpreter.
    assert_complete(flushes.rest()[-1].values)


@pytest.mark.measures
def test_starting_costs_less_than_three_milliseconds(run_program: RunProgram, flushes: Flushes) -> None:
    program = """
    import time
    from runtime_metrics import RuntimeMetrics
    start = time.process_time()
    RuntimeMetrics.enable()
    assert RuntimeMetrics.flush()
    print(time.process_time() - start)
    """
    seconds = [float(run_program(program, DD_DOGSTATSD_URL=flushes.url)) for _ in range(5)]
    assert min(seconds) < 0.003


@pytest.mark.parametrize(
    ("ending", "status"),
    [("", 0), ("import sys; sys.exit(3)", 3), ("import gc; gc.disable(); del RuntimeMetrics", 0)],
    ids=["end of main", "sys.exit", "without the class"],
)
def test_a_normal_exit_sends_one_last_sample(
    run_program: RunProgram, flushes: Flushes, ending: str, status: int
) -> None:
    run_program(ENABLE + ending, status=status, DD_DOGSTATSD_URL=flushes.url)
    (flush,) = flushes.rest()
    assert_complete(flush.values)


def test_an_exit_after_disable_sends_nothing_more(run_program: RunProgram, flushes: Flushes) -> None:
    run_program(ENABLE + "RuntimeMetrics.disable()", DD_DOGSTATSD_URL=flushes.url)
    assert len(flushes.rest()) == 1


def test_a_daemon_thread_in_a_flush_survives_the_exit(run_program: RunProgram, flushes: Flushes) -> None:
    for _ in range(8):
        run_program(
            """
            import threading, time
            from runtime_metrics import RuntimeMetrics
            RuntimeMetrics.enable(flush_interval=0.01)
            def flush():
                while True:
                    RuntimeMetrics.flush()
            threading.Thread(target=flush, daemon=True).start()
            time.sleep(0.05)
            """,
            DD_DOGSTATSD_URL=flushes.url,
        )


def test_a_callback_that_was_removed_stays_removed(run_program: RunProgram, flushes: Flushes) -> None:
    run_program(
        """
        import gc, time
        from runtime_metrics import RuntimeMetrics
        for _ in range(60):
            RuntimeMetrics.enable(flush_interval=0.01)
            end = time.perf_counter() + 0.012
            while time.perf_counter() < end:
                pass
            RuntimeMetrics.disable()
        assert gc.callbacks == []
        """,
        DD_DOGSTATSD_URL=flushes.url,
    )


def test_nothing_starts_while_the_interpreter_ends(run_program: RunProgram, flushes: Flushes) -> None:
    run_program(
        """
        import atexit
        from runtime_metrics import RuntimeMetrics
        def late():
            RuntimeMetrics.enable()
            assert RuntimeMetrics._enabled is False
            assert RuntimeMetrics.flush() is False
            assert RuntimeMetrics.snapshot() == {}
        # Handlers run in reverse order: this one after ours.
        atexit.register(late)
        RuntimeMetrics.enable()
        """,
        DD_DOGSTATSD_URL=flushes.url,
    )
    assert len(flushes.rest()) == 1


@pytest.mark.parametrize("ending", ["", "RuntimeMetrics.disable()"], ids=["exit", "disable"])
def test_a_silent_name_server_delays_nothing(
    run_program: RunProgram, preloaded: Preloaded, ending: str
) -> None:
    start = time.monotonic()
    run_program(
        f"""
        import logging, time
        logging.disable()
        from runtime_metrics import RuntimeMetrics
        RuntimeMetrics.enable(dogstatsd_url="agent.example:8125", flush_interval=0.05)
        assert RuntimeMetrics.flush() is False
        time.sleep(0.3)
        assert RuntimeMetrics.snapshot()
        {ending}
        """,
        LD_PRELOAD=preloaded("slow_resolver"),
    )
    assert time.monotonic() - start < 15


@pytest.mark.measures
def test_a_thread_that_holds_the_interpreter_delays_no_os_metric(
    run_program: RunProgram, flushes: Flushes
) -> None:
    run_program(
        """
        import ctypes
        from runtime_metrics import RuntimeMetrics
        RuntimeMetrics.enable(flush_interval=0.5)
        # PyDLL, unlike CDLL, holds the GIL during the call.
        ctypes.PyDLL(None).sleep(5)
        """,
        DD_DOGSTATSD_URL=flushes.url,
    )
    arrived = flushes.rest()
    without_interpreter = [flush for flush in arrived if INTERPRETER_NAMES[0] not in flush.values]
    assert len(without_interpreter) >= 8
    for flush in without_interpreter:
        assert of_default_level(flush.values) - set(PERCENT_NAMES) == set(CERTAIN_NAMES), (
            "while the interpreter does not answer, exactly the rows whose `needs` lack GcCount are sent: does each row"
            " of the catalogue name all its sources there?"
        )
    assert_complete(arrived[-1].values)


def test_the_main_thread_is_still_interrupted_by_its_signals(
    run_program: RunProgram, flushes: Flushes
) -> None:
    printed = run_program(
        """
        import os, signal, time
        from runtime_metrics import RuntimeMetrics
        RuntimeMetrics.enable(flush_interval=0.01)
        signal.signal(signal.SIGALRM, lambda *_: print("interrupted", time.monotonic() - start < 5))
        start = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        signal.pause()
        """,
        DD_DOGSTATSD_URL=flushes.url,
    )
    assert printed == "interrupted True\n"


def test_a_warning_of_the_sampler_is_logged_and_leaves_no_trace_in_threading(
    run_program: RunProgram, tmp_path: Path
) -> None:
    run_program(
        """
        import logging, threading, time
        logged = []
        class Keeping(logging.Handler):
            def emit(self, record):
                logged.append((record.levelname, threading.current_thread() is threading.main_thread()))
        logging.getLogger("runtime_metrics").addHandler(Keeping())
        from runtime_metrics import RuntimeMetrics
        RuntimeMetrics.enable(flush_interval=0.01)
        deadline = time.monotonic() + 20
        while not logged and time.monotonic() < deadline:
            time.sleep(0.01)
        assert logged == [("WARNING", False)], logged
        time.sleep(0.1)
        assert len(logged) == 1
        assert threading.enumerate() == [threading.main_thread()]
        """,
        DD_DOGSTATSD_URL=f"unix://{tmp_path}/missing.socket",
    )


@pytest.mark.measures
def test_many_starts_and_stops_leave_nothing_behind(run_program: RunProgram, flushes: Flushes) -> None:
    run_program(
        """
        import os
        from runtime_metrics import RuntimeMetrics
        def resident():
            with open("/proc/self/statm") as statm:
                return int(statm.read().split()[1]) * 4096
        def cycle(times):
            for _ in range(times):
                RuntimeMetrics.enable()
                RuntimeMetrics.disable()
        cycle(50)
        before = resident()
        cycle(500)
        assert resident() - before < 1 << 20, resident() - before
        assert len(os.listdir("/proc/self/task")) == 1
        """,
        DD_DOGSTATSD_URL=flushes.url,
    )


def site_packages() -> str:
    """The folder of the package, for an interpreter that does not search it."""
    import runtime_metrics

    return str(Path(runtime_metrics.__file__).parent.parent)
