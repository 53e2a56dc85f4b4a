"""What the wheel does under an interpreter of another platform."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

from rows import FAILED, FOLDER, ROOT, show

if TYPE_CHECKING:
    from pathlib import Path

# What the tests and the runtime of AWS Lambda need; there are wheels of them for each platform.
PACKAGES = ("awslambdaric", "psutil", "pytest", "pytest-timeout", "pytest-xdist")

PROGRAM = "tests/programs/family.py"

# The tests that need no other environment.
TESTS = ("test_api.py", "test_lifecycle.py", "test_status.py")


def wheel(name: str) -> tuple[Path | None, str]:
    """Builds and checks a wheel that release/wheels.py knows by this name; what it is, or why there is none."""
    done = show(f"wheel {name}", [sys.executable, str(ROOT / "release/wheels.py"), name])
    line = done.stdout.strip().rpartition("\n")[2].removeprefix(f"{name}: ")
    if done.returncode:
        return None, FAILED
    if line.startswith("left out"):
        return None, f"no: {line.partition(', ')[2]}"
    size, file = line.split(", checked: ")
    return ROOT / "dist/wheels" / file, f"wheel of {size}"


def environment(name: str, python: Path, platform: str, package: Path) -> Path:
    """Makes a virtual environment with the wheel and what its tests need; returns its interpreter.

    It is the pip of this machine that installs there, for the platform.
    """
    folder = FOLDER / name / "venv"
    subprocess.run([python, "-m", "venv", "--clear", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    version = site.parent.name.removeprefix("python")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pip += [
        "--only-binary=:all:",
        f"--python-version={version}",
        f"--platform={platform}",
        f"--target={site}",
    ]
    for kind in ("dev", "lambda"):
        pip += ["--constraint", str(ROOT / f"requirements-{kind}.txt")]
    subprocess.run([*pip, *PACKAGES, str(package)], check=True)
    return folder / "bin/python"


def run(python: Path, but_not: str = "") -> str:
    """Runs the program of all platforms, AWS Lambda's runtime, and tests but for some; says what passed."""
    if failed := program(python):
        return failed
    function = show("function", [str(python), "examples/lambda/invoke.py"])
    answers = function.stdout.count('response: {"statusCode": 200}')
    if function.returncode or answers != 3 or function.stdout.count("runtime.python.mem.rss:") != 3:
        return f"{FAILED}: examples/lambda/invoke.py"
    files = [f"tests/{name}" for name in TESTS]
    # An emulated processor is slow.
    options = ["--quiet", "--timeout", "600", "-m", "not measures"]
    options += ["-k", f"not ({but_not})"] if but_not else []
    tests = show("tests", [str(python), "-m", "pytest", "-p", "no:cacheprovider", *options, *files])
    passed = re.findall(r"(\d+) passed", tests.stdout)
    if tests.returncode or not passed:
        names = re.findall(r"^FAILED \S+::(\S+)", tests.stdout, re.MULTILINE)
        return f"{FAILED}: {', '.join(names) or 'pytest'}"
    return f"the program, AWS Lambda's runtime, {passed[0]} tests in Python"


def program(python: Path) -> str:
    """Runs the program of every platform; says so if it failed."""
    done = show("program", [str(python), "-W", "error", PROGRAM])
    return f"{FAILED}: {PROGRAM}" if done.returncode else ""
