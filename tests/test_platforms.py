"""What is done for other platforms: lints where Rust's standard library is there, and a program that runs here too."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the compilers here are shell scripts")

TOOLS = Path(__file__).parent.parent / "tools"
RELEASE = "1.95.0"
WINDOWS = "x86_64-pc-windows-msvc"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with the tool, and a compiler for this platform alone."""
    shutil.copytree(TOOLS, tmp_path / "tools")
    (tmp_path / "bin").mkdir()
    for name, prints in {
        "rustc": f'[ "$1" = --version ] && echo "rustc {RELEASE}-nightly (0 0)" || echo "{tmp_path}/sysroot"',
        "cargo": 'echo "$RUSTC_BOOTSTRAP $@"',
    }.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{prints}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def lint(tree: Path) -> list[str]:
    path = f"{tree / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {name: value for name, value in os.environ.items() if name != "RUSTC_BOOTSTRAP"}
    command = [sys.executable, str(tree / "tools" / "platforms.py"), "lint"]
    done = subprocess.run(
        command, env=environment | {"PATH": path}, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_without_a_standard_library_one_line_says_what_to_install(tree: Path) -> None:
    (line,) = lint(tree)
    assert line.startswith(f"clippy did not run for {WINDOWS}, aarch64-apple-darwin, x86_64-apple-darwin: ")
    assert "`rustup target add" in line
    assert "`make library`" in line


@pytest.mark.parametrize(
    "folder", ["sysroot/lib/rustlib/src/rust/library", f".platforms/library/{RELEASE}/library"]
)
def test_with_its_source_the_standard_library_is_built(tree: Path, folder: str) -> None:
    (tree / folder).mkdir(parents=True)
    (tree / folder / "Cargo.lock").touch()
    lines = lint(tree)
    assert [line.split("--target ")[1].split()[0] for line in lines] == [
        WINDOWS,
        "aarch64-apple-darwin",
        "x86_64-apple-darwin",
    ]
    assert all(line.startswith("1 clippy ") and " -Z build-std " in line for line in lines)


def test_an_installed_standard_library_is_used_as_it_is(tree: Path) -> None:
    library = tree / "sysroot" / "lib" / "rustlib" / WINDOWS / "lib"
    library.mkdir(parents=True)
    (library / "libstd-0.rlib").touch()
    missing, installed = lint(tree)
    assert "did not run for aarch64-apple-darwin, x86_64-apple-darwin: " in missing
    assert installed.startswith(" clippy ")
    assert "build-std" not in installed


@pytest.mark.parametrize(("excluded", "timeout"), [("", 60), ("mem.rss", 2)])
def test_the_program_of_every_platform_is_right_here_and_notices_what_is_missing(
    excluded: str, timeout: int
) -> None:
    program = TOOLS.parent / "tests" / "programs" / "family.py"
    done = subprocess.run(
        [sys.executable, "-W", "error", program],
        env=os.environ | {"DD_RUNTIME_METRICS_EXCLUDE": excluded, "TIMEOUT": str(timeout)},
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert (done.returncode == 0) == (not excluded), done.stderr
    assert done.stdout.endswith(" metrics of 3 processes\n") == (not excluded)
    assert not excluded or re.search(f"{{.*'runtime.python.{excluded}'.*}} missing", done.stderr)


def test_the_table_keeps_the_rows_that_were_not_asked_for(tmp_path: Path) -> None:
    shutil.copytree(TOOLS.parent / "tests" / "platforms", tmp_path / "tests" / "platforms")
    (tmp_path / "docs").mkdir()
    pages = tmp_path / "docs" / "platforms.md", tmp_path / "README.md"
    for page in pages:
        page.write_text(
            "a\n<!-- platforms: written by `make test-platforms` -->\n<!-- end of platforms -->\nb\n"
        )

    def make(*rows: tuple[str, str, str, str]) -> int:
        program = f"""
import targets
targets.PLATFORMS = [lambda row=row: targets.Row(*row) for row in {rows}]
raise SystemExit(targets.main([]))
"""
        environment = os.environ | {"PYTHONPATH": str(tmp_path / "tests" / "platforms")}
        command = [sys.executable, "-c", program]
        return subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False).returncode

    assert make(("a-b", "clippy", "no: why", "no"), ("c-d", "clippy", "wheel", "**failed**: x")) == 1
    assert make(("c-d", "clippy", "wheel", "all 3 tests")) == 0
    full, short = (page.read_text().splitlines() for page in pages)
    assert full[5:7] == ["| a-b | clippy | no: why | no |", "| c-d | clippy | wheel | all 3 tests |"]
    assert short[5:7] == ["| a-b | yes | no | no |", "| c-d | yes | yes | yes |"]
    assert (full[0], full[-1]) == ("a", "b")
