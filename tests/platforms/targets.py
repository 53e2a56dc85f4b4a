"""Checks, builds and runs this library for other platforms, as far as this machine can, and prints a table of it.

    python tests/platforms/targets.py [NAME...]    # all of PLATFORMS, or those of these names

Each platform is a function that fills in a row. Run is more than built, built more than checked. The exit status is 1
if anything failed; what could not be done is no failure, and has its reason in the table.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
FOLDER = ROOT / ".platforms"
TOOL = [sys.executable, str(ROOT / "tools/platforms.py")]
FAILED = "**failed**"


@dataclass
class Row:
    """What was done for a platform: a word, what was found, or "no" and the reason."""

    target: str
    checked: str = "no"
    built: str = "no"
    run: str = "no"

    def failed(self) -> bool:
        """Whether anything failed that could be done."""
        return any(cell.startswith(FAILED) for cell in (self.checked, self.built, self.run))


def windows() -> Row:
    """Windows: clippy for MSVC, and the Rust tests, built by mingw, under Wine."""
    row = Row("x86_64-pc-windows", checked=clippy("x86_64-pc-windows-msvc"))
    target, root = "x86_64-pc-windows-gnu", FOLDER / "root"
    if reason := packages("gcc-mingw-w64-x86-64-posix", "wine64"):
        row.built = row.run = f"no: {reason}"
        return row
    dlls, gcc = FOLDER / "dlls", root / "usr/bin/x86_64-w64-mingw32-gcc-posix"
    dlls.mkdir(exist_ok=True)
    # Wine loads the one that it depends on from the path alone.
    shutil.copy(root / "usr/x86_64-w64-mingw32/lib/zlib1.dll", dlls)
    stub = [
        str(gcc),
        "-shared",
        "-o",
        str(dlls / "bcryptprimitives.dll"),
        str(HERE / "bcryptprimitives.c"),
        "-ladvapi32",
    ]
    subprocess.run(stub, check=True)
    # Not below this folder: one of Wine's drives leads to /, and cargo would follow it for a source distribution.
    with tempfile.TemporaryDirectory() as prefix:
        runner = wine(root, dlls, prefix)
        environment = {
            "PATH": f"{gcc.parent}:{os.environ['PATH']}",
            "CARGO_TARGET_X86_64_PC_WINDOWS_GNU_LINKER": str(gcc),
            "CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER": str(runner),
        }
        row.built = built(cargo(target, "test", "--no-run", environment=environment))
        if row.built == "yes":
            row.run = tests(cargo(target, "test", "--tests", "--no-fail-fast", environment=environment))
        subprocess.run([runner, "wineboot", "--kill"], check=False)
    return row


def macos_arm64() -> Row:
    """A Mac with one of Apple's processors."""
    return macos("aarch64-apple-darwin")


def macos_x86_64() -> Row:
    """A Mac with one of Intel's processors."""
    return macos("x86_64-apple-darwin")


PLATFORMS: tuple[Callable[[], Row], ...] = (windows, macos_arm64, macos_x86_64)


def macos(target: str) -> Row:
    """Clippy alone."""
    return Row(target, clippy(target), "no: needs Apple's SDK", "no: needs a Mac")


def wine(root: Path, dlls: Path, prefix: str) -> Path:
    """A command that runs a program of Windows; unpacked, Wine finds nothing by itself."""
    folder = root / "usr/lib/wine"
    server = folder / "wineserver"
    # Debian's own is a script, for an installed Wine.
    server.unlink(missing_ok=True)
    server.symlink_to("wineserver64")
    variables = {
        "LD_LIBRARY_PATH": root / "usr/lib/x86_64-linux-gnu",
        "WINEDEBUG": "-all",
        # No prompt to install Mono and Gecko, no entries in a menu.
        "WINEDLLOVERRIDES": "mscoree=;mshtml=;winemenubuilder.exe=",
        "WINEPATH": "Z:" + str(dlls).replace("/", "\\"),
        "WINEPREFIX": prefix,
    }
    exports = "".join(f"export {name}='{value}'\n" for name, value in variables.items())
    command = FOLDER / "wine.sh"
    command.write_text(f"#!/bin/sh\n{exports}exec '{folder}/wine64' \"$@\"\n")
    command.chmod(0o755)
    subprocess.run([command, "wineboot", "--init"], check=True, timeout=600)
    return command


def packages(*names: str) -> str:
    """Has Debian's packages unpacked below .platforms/root; returns why that was not possible."""
    done = subprocess.run([*TOOL, "packages", *names], stderr=subprocess.PIPE, text=True, check=False)
    return done.stderr.strip().rpartition("\n")[2] if done.returncode else ""


def clippy(target: str) -> str:
    """Whether clippy passes, of the library with Python and of its tests."""
    done = cargo(target, "clippy", "--all-targets", "--features", "python")
    return "clippy" if done.returncode == 0 else built(done)


def built(done: subprocess.CompletedProcess[str]) -> str:
    """Whether cargo succeeded; why it could not begin."""
    if done.returncode == 0:
        return "yes"
    last = done.stdout.strip().rpartition("\n")[2]
    return f"no: {last}" if last.startswith("`rustup") else FAILED


def tests(done: subprocess.CompletedProcess[str]) -> str:
    """How many of the Rust tests passed; the names of the others."""
    passed = sum(
        int(count) for count in re.findall(r"^test result: .* (\d+) passed", done.stdout, re.MULTILINE)
    )
    failed = re.findall(r"^test (\S+) \.\.\. FAILED", done.stdout, re.MULTILINE)
    if done.returncode or not passed:
        return f"{FAILED}: {', '.join(failed) or 'it did not end'}; {passed} Rust tests passed"
    return f"all {passed} Rust tests that are not Linux's own"


def cargo(
    target: str, *words: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs cargo for a target, and shows what it prints."""
    print(f"\n{target}: cargo {' '.join(words)}", flush=True)
    command = [*TOOL, "cargo", target, *words]
    variables = os.environ | (environment or {})
    lines = []
    with subprocess.Popen(
        command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    return subprocess.CompletedProcess(command, process.returncode, "".join(lines))


def main(names: list[str]) -> int:
    """Prints the table."""
    rows = [platform() for platform in PLATFORMS if not names or platform.__name__ in names]
    print("\n| target | checked | built | run |\n| --- | --- | --- | --- |")
    for row in rows:
        print(f"| {row.target} | {row.checked} | {row.built} | {row.run} |")
    return int(any(row.failed() for row in rows) or not rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
