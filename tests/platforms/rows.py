"""What the rows of the table are made with.

A platform is a function without arguments that does what this machine can, and returns a `Row`. It is in the list of
`targets.py`, and in a file of its own if it is more than a few lines.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / ".platforms"
FAILED = "**failed**"


@dataclass
class Row:
    """What was done for a platform: a word, what was found, or "no" and the reason."""

    target: str
    checked: str = "no"
    built: str = "no"
    run: str = "no"

    def words(self) -> list[str]:
        """The same, as a word for each."""
        return [
            "failed" if FAILED in cell else "no" if cell.startswith("no") else "yes"
            for cell in (self.checked, self.built, self.run)
        ]

    def failed(self) -> bool:
        """Whether anything failed that could be done."""
        return any(FAILED in cell for cell in (self.checked, self.built, self.run))


def debian(command: str, *words: str) -> str:
    """Has Debian's packages unpacked below .platforms/; returns why that was not possible."""
    tool = [sys.executable, str(ROOT / "tools/debian.py"), command, *words]
    done = subprocess.run(tool, stderr=subprocess.PIPE, text=True, check=False)
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
    return f"all {passed} Rust tests"


def cargo(
    target: str, *words: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs cargo for a target, and shows what it prints."""
    tool = [sys.executable, str(ROOT / "tools/platforms.py"), "cargo", target, *words]
    return show(f"{target}: cargo {' '.join(words)}", tool, environment)


def show(
    title: str, command: list[str], environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a command, and shows what it prints."""
    print(f"\n{title}", flush=True)
    variables = os.environ | (environment or {})
    lines = []
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    return subprocess.CompletedProcess(command, process.returncode, "".join(lines))


def script(path: Path, *lines: str) -> Path:
    """Writes a command of these lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return path
