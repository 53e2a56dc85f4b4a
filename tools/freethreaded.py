"""A free-threaded CPython 3.14, with nothing installed: in .platforms/, which git ignores.

    python tools/freethreaded.py interpreter        print the path of one, which is fetched if there is none
    python tools/freethreaded.py run [SECONDS]      build a wheel and run programs with it, one of them for that long
    python tools/freethreaded.py try WHEEL SECONDS  run them with a wheel that is there

`python3.14t` is used where there is one. Otherwise the package freeze-core, with which programs are made that need no
Python, has the interpreter and its native modules. The modules in Python are those of Debian's package of CPython 3.14,
perhaps of a later patch release.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from debian import download, output, release

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".platforms" / "python3.14t"
PROGRAMS = ROOT / "tests" / "programs"

MACHINE = "x86_64"
CORE = "freeze-core==0.8.1"
SUITES = ("sid", "testing")
LIBRARY = ("libpython3.14-minimal", "libpython3.14-stdlib")

# freeze-core's program starts the one that is frozen. This has it start the interpreter as Python's own command does.
MAIN = """\
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>

static int run(int argc, char **argv, char **environment) {
    (void)environment;
    unsetenv("LD_PRELOAD");
    int (*interpreter)(int, char **) = dlsym(RTLD_DEFAULT, "Py_BytesMain");
    return interpreter(argc, argv);
}

int __libc_start_main(int (*program)(int, char **, char **), int argc, char **argv, void (*begin)(void),
                      void (*end)(void), void (*unload)(void), void *stack) {
    int (*start)(int (*)(int, char **, char **), int, char **, void (*)(void), void (*)(void), void (*)(void),
                 void *) = dlsym(RTLD_NEXT, "__libc_start_main");
    return start(dlsym(RTLD_DEFAULT, "Py_BytesMain") ? run : program, argc, argv, begin, end, unload, stack);
}
"""


class UnavailableError(Exception):
    """Why there is no free-threaded CPython, or no wheel for it."""


class WrongError(Exception):
    """What a program found wrong."""


def main(command: str, *words: str) -> str | int:
    """Runs a command; returns its exit status, or why it could not be run."""
    try:
        if command == "interpreter":
            print(interpreter())
            return 0
        if command == "run":
            print(run(build(), *map(float, words)))
            return 0
        if command == "try":
            wheel, seconds = words
            print(run(Path(wheel), float(seconds)))
            return 0
    except UnavailableError as error:
        return f"no free-threaded CPython: {error}"
    except WrongError as error:
        return str(error)
    return f"unknown command {command}"


def interpreter() -> str:
    """The path of one. It is fetched if there is none, which an UnavailableError may end."""
    if installed := shutil.which("python3.14t"):
        return installed
    python = FOLDER / "bin" / "python3.14t"
    if not python.exists():
        try:
            fetch()
        except (OSError, subprocess.CalledProcessError) as error:
            raise UnavailableError(str(error)) from error
    return str(python)


def fetch() -> None:
    """Puts an interpreter together."""
    if sys.platform != "linux" or os.uname().machine != MACHINE:
        raise UnavailableError(f"one can be fetched for Linux on {MACHINE} only")
    for command in ("apt-get", "dpkg-deb", "cc"):
        if not shutil.which(command):
            raise UnavailableError(f"it takes {command} to put one together")
    FOLDER.parent.mkdir(exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=FOLDER.parent))
    try:
        library = part / "lib" / "python3.14t"
        fetch_library(part / "debian", library)
        with zipfile.ZipFile(fetch_core(part / "core")) as core:
            core.extractall(part / "core")
        package = part / "core" / "freeze_core"
        for module in package.glob("lib/*.so"):
            shutil.copy(module, library / "lib-dynload")
        # Where those look for the libraries that they need.
        (package.parent / "freeze_core.libs").rename(part / "lib" / "freeze_core.libs")
        (part / "bin").mkdir()
        (program,) = package.glob("bases/console-*")
        program.rename(part / "bin" / "program").chmod(0o755)
        (part / "main.c").write_text(MAIN)
        compiled = ["cc", "-O", "-shared", "-fPIC", "-o", "main.so", "main.c", "-ldl"]
        subprocess.run(compiled, cwd=part, check=True)
        shutil.rmtree(part / "debian")
        shutil.rmtree(part / "core")
        write_command(part / "bin" / "python3.14t")
        shutil.rmtree(FOLDER, ignore_errors=True)
        part.rename(FOLDER)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def fetch_core(folder: Path) -> Path:
    """Downloads freeze-core."""
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]
    target = ["--python-version", "3.14", "--abi", "cp314t", "--platform", f"manylinux2014_{MACHINE}"]
    command = [sys.executable, "-m", "pip", "download", *options, *target, "--dest", str(folder), CORE]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def fetch_library(folder: Path, library: Path) -> None:
    """Unpacks the modules in Python, of the first of Debian's releases that has this version."""
    for suite in SUITES:
        with release(suite) as environment:
            if output("apt-cache", "show", *LIBRARY, env=environment):
                download(folder, *LIBRARY, env=environment)
                break
    else:
        raise UnavailableError(f"Debian has no {' '.join(LIBRARY)}")
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", package, folder / "root"], check=True)
    library.parent.mkdir()
    (folder / "root" / "usr/lib/python3.14").rename(library)
    # Native modules for the other build, and what Debian adds.
    shutil.rmtree(library / "lib-dynload")
    (library / "lib-dynload").mkdir()
    (library / "sitecustomize.py").unlink(missing_ok=True)


def write_command(python: Path) -> None:
    """Writes the command, which is `sys.executable` as well; the folder may be moved."""
    lines = (
        "#!/bin/bash",
        'home=$(readlink -f "$0")',
        "home=${home%/bin/*}",
        'export LD_PRELOAD="$home/main.so" PYTHONHOME="$home"',
        'exec -a "$0" "$home/bin/program" "$@"',
    )
    python.write_text("\n".join([*lines, ""]))
    python.chmod(0o755)


def build() -> Path:
    """Builds a wheel for it."""
    name = f"cp314-cp314t-manylinux_2_17_{MACHINE}"
    done = subprocess.run(["make", "wheels", f"WHEELS={name}"], cwd=ROOT, check=False)
    wheels = sorted(ROOT.glob(f"dist/wheels/*-cp314-cp314t-manylinux*_{MACHINE}.whl"))
    if done.returncode or not wheels:
        raise UnavailableError("no wheel could be built")
    return wheels[-1]


def run(wheel: Path, seconds: float = 10) -> str:
    """Runs our programs with a wheel; returns what was seen."""
    python = interpreter()
    seen = [printed(python, "-c", "import platform; print('CPython', platform.python_version())").strip()]
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        for level in ("default", "standard"):
            facts = json.loads(printed(python, str(PROGRAMS / "two_forks.py"), level, packages=folder))
            names = facts["names"]
            if facts["is_gil_enabled"] or facts["statuses"] != [0, 0] or len(names) != 3 or len({*names}) > 1:
                raise WrongError(f"two_forks.py: {facts}")
            seen.append(f"{names[0]} metrics of 3 processes at level {level}")
        program = str(PROGRAMS / "at_once.py")
        facts = json.loads(printed(python, program, str(seconds), packages=folder, timeout=seconds + 600))
        if facts["is_gil_enabled"] or facts["wrong"]:
            raise WrongError(f"at_once.py: {facts}")
        done = facts["done"]
        seen.append(f"{done['enable']} starts and {done['fork']} forks of threads at once in {seconds:g} s")
    return ", ".join(seen)


def printed(python: str, *words: str, packages: str = "", timeout: float = 120) -> str:
    """What a program prints; it may write nothing to standard error."""
    command = [python, "-W", "error", "-X", "faulthandler", *words]
    environment = os.environ | {"PYTHONPATH": packages}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=timeout
        )
    except subprocess.TimeoutExpired as error:
        raise WrongError(f"{words[0]} hangs") from error
    if done.returncode or done.stderr:
        raise WrongError(f"{words[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
