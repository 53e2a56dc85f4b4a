"""The lints for other platforms run where Rust's standard library for them is there, and otherwise say so."""

from __future__ import annotations

import os
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
