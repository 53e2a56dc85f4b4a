"""What describes a process: a tag for each thing by which a slow one may differ from a fast one."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import sysconfig
import textwrap
from typing import TYPE_CHECKING

import pytest
from catalogue_names import CATALOGUE, checks
from launching import each_version
from serving import SERVERS, need

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import InstalledIn
    from receiving import Flush, Flushes

INFO = re.compile(r"info\{(.*)\}")
KEYS = next(metric.tags for metric in CATALOGUE if metric.name == "runtime.python.info")

PROGRAM = """\
{work}
from runtime_metrics import RuntimeMetrics
RuntimeMetrics.enable(flush_interval=3600, level="standard")
assert RuntimeMetrics.flush()
"""


def info(flush: Flush) -> dict[str, str]:
    """The tags of a flush, by key."""
    (found,) = [match[1] for name in flush.values if (match := INFO.fullmatch(name))]
    assert flush[f"info{{{found}}}"] == 1
    return dict(tag.split(":", 1) for tag in found.split(","))


def described(
    flushes: Flushes,
    work: str = "",
    *options: str,
    python: str | Path = sys.executable,
    **environment: str,
) -> dict[str, str]:
    """How a program is described after some work."""
    subprocess.run(
        [python, *options, "-c", PROGRAM.format(work=textwrap.dedent(work))],
        env=os.environ | {"DD_DOGSTATSD_URL": flushes.url} | environment,
        check=True,
        timeout=60,
    )
    return info(flushes.rest()[0])


PLAIN = {
    "gil": "on",
    "jit": "off",
    "gc_impl": "generational",
    "gc": "enabled",
    "allocator": "pymalloc",
    "loop": "none",
    "server": "other",
    "debug": "none",
}


@checks("runtime.python.info")
@each_version
def test_a_program_without_anything_is_described_so(
    flushes: Flushes, installed_in: InstalledIn, version: str
) -> None:
    found = described(flushes, python=installed_in(version))
    # 3.13 does not say, and later versions may have it.
    assert found.pop("jit", "off") in (["off"] if version < "3.14" else ["on", "off"])
    assert found == {key: word for key, word in PLAIN.items() if key != "jit"}


@pytest.mark.skipif(platform.python_implementation() != "CPython", reason="the options are CPython's")
@pytest.mark.parametrize(
    ("work", "options", "environment", "expected"),
    [
        ("import gc; gc.disable()", [], {}, {"gc": "disabled"}),
        ("", [], {"PYTHONMALLOC": "malloc"}, {"allocator": "malloc"}),
        ("", [], {"PYTHONMALLOC": "pymalloc_debug"}, {}),
        ("", ["-E"], {"PYTHONMALLOC": "malloc"}, {}),
        ("import asyncio", [], {}, {"loop": "asyncio"}),
        ("import tracemalloc", [], {}, {}),
        ("import tracemalloc; tracemalloc.start()", ["-X", "dev"], {}, {"debug": "tracemalloc"}),
        ("", ["-X", "tracemalloc"], {}, {"debug": "tracemalloc"}),
        ("import sys; sys.settrace(lambda *_: None)", [], {}, {"debug": "settrace"}),
        ("import threading; threading.settrace(lambda *_: None)", [], {}, {"debug": "settrace"}),
        ("", [], {"PYTHONASYNCIODEBUG": "1"}, {"debug": "asyncio"}),
        ("", ["-X", "dev"], {}, {"debug": "devmode"}),
        # It says so itself, whatever is imported.
        ("", [], {"AWS_LAMBDA_FUNCTION_NAME": "coffee"}, {"server": "lambda"}),
    ],
)
def test_each_difference_shows(
    flushes: Flushes, work: str, options: list[str], environment: dict[str, str], expected: dict[str, str]
) -> None:
    expected = PLAIN | expected
    found = described(flushes, work, *options, **environment)
    assert {"jit": "off"} | found == expected
    assert set(found) <= set(KEYS)


@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_a_tool_that_monitors_shows(flushes: Flushes, installed_in: InstalledIn, version: str) -> None:
    work = "import sys; sys.monitoring.use_tool_id(sys.monitoring.PROFILER_ID, 'mine')"
    assert described(flushes, work, python=installed_in(version))["debug"] == "monitoring"


@pytest.mark.servers
@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("gunicorn.arbiter", {"server": "gunicorn"}),
        ("gunicorn.arbiter, uvicorn", {"server": "gunicorn", "loop": "asyncio"}),
        ("uvicorn, uvloop", {"server": "uvicorn", "loop": "uvloop"}),
        ("granian", {"server": "granian", "loop": "uvloop"}),
        ("hypercorn.run", {"server": "hypercorn"}),
        ("celery.apps.worker", {"server": "celery"}),
        # A program that only sends tasks is no worker.
        ("celery", {}),
        ("gevent", {"loop": "gevent"}),
    ],
)
def test_the_server_and_the_loop_are_those_that_are_imported(
    flushes: Flushes, module: str, expected: dict[str, str]
) -> None:
    need("celery", "gevent", "granian", "gunicorn", "hypercorn", "uvicorn", "uvloop")
    found = described(flushes, f"import {module}", python=SERVERS / "bin" / "python")
    assert {key: found[key] for key in expected} == expected
    if "server" not in expected:
        assert found["server"] == "other"


def test_a_mapped_library_names_the_allocator(flushes: Flushes, tmp_path: Path) -> None:
    source, library = tmp_path / "empty.c", tmp_path / "libjemalloc.so.2"
    source.write_text("int nothing;\n")
    subprocess.run(["cc", "-shared", "-o", library, source], check=True)
    assert described(flushes, LD_PRELOAD=str(library))["allocator"] == "jemalloc"


def test_it_comes_once_a_minute(flushes: Flushes) -> None:
    work = "import atexit"
    subprocess.run(
        [sys.executable, "-c", PROGRAM.format(work=work) + "RuntimeMetrics.flush()\n"],
        env=os.environ | {"DD_DOGSTATSD_URL": flushes.url},
        check=True,
        timeout=60,
    )
    first, *others = flushes.rest()
    assert info(first)
    assert len(others) == 2
    assert [name for flush in others for name in flush.values if INFO.fullmatch(name)] == []


@checks("runtime.python.gil.reenabled")
def test_only_a_free_threaded_build_reports_its_gil(flushes: Flushes) -> None:
    work = """
    from runtime_metrics import RuntimeMetrics
    RuntimeMetrics.enable(flush_interval=3600, level="standard")
    assert RuntimeMetrics.flush()
    """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(work)],
        env=os.environ | {"DD_DOGSTATSD_URL": flushes.url},
        check=True,
        timeout=60,
    )
    first, *_ = flushes.rest()
    is_free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    assert ("gil.reenabled" in first.values) == is_free_threaded
