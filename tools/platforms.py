"""Builds for platforms other than this one, with nothing installed: all of it is in .platforms/, which git ignores.

    python tools/platforms.py library               fetch the source of Rust's standard library, from Debian's packages
    python tools/platforms.py cargo TARGET WORD...  run cargo for a target
    python tools/platforms.py lint                  run clippy for each target of LINTED

A standard library that rustup has installed is used as it is: `rustup target add TARGET`. Otherwise cargo builds it
from its source, which rustup installs too: `rustup component add rust-src`. A stable compiler does so with
RUSTC_BOOTSTRAP set.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from debian import FOLDER, attempt, download, output, release

ROOT = FOLDER.parent
LINTED = ("x86_64-pc-windows-msvc", "aarch64-apple-darwin", "x86_64-apple-darwin")

# Debian's releases that may have the source of this compiler's version, the smallest list of packages first.
SUITES = ("trixie-backports", "testing", "sid")


def main(command: str, *words: str) -> str | int:
    """Runs a command; returns its exit status, or why it could not be run."""
    if command == "library":
        # Without it everything else goes on.
        if reason := "" if source() else attempt(fetch_library):
            print(f"{reason}: `rustup component add rust-src`")
        return 0
    if command == "cargo":
        target, *rest = words
        return missing(target) or cargo(target, *rest)
    if command == "lint":
        return lint()
    return f"unknown command {command}"


def lint() -> int:
    """Runs clippy where it can be run, and says in one line where it cannot."""
    possible = [target for target in LINTED if not missing(target)]
    if len(possible) < len(LINTED):
        left = [target for target in LINTED if target not in possible]
        print(f"clippy did not run for {', '.join(left)}: {missing(left[0])}", flush=True)
    words = ("clippy", "--quiet", "--all-targets", "--features", "python")
    return max((cargo(target, *words) for target in possible), default=0)


def missing(target: str) -> str:
    """What to do before cargo can build for a target; empty if it can."""
    if is_installed(target) or source():
        return ""
    return f"`rustup target add {target}`, `rustup component add rust-src` or, on Debian, `make library`"


def cargo(target: str, *words: str) -> int:
    """Runs cargo for a target; returns its exit status."""
    first, *rest = words
    options = ["--locked", "--target", target, "--target-dir", str(FOLDER / "target")]
    # Without what a debugger needs, the standard library is built sooner. An extension module looks for no libpython.
    environment = os.environ | {
        "PYO3_NO_PYTHON": "1",
        "PYO3_BUILD_EXTENSION_MODULE": "1",
        "CARGO_PROFILE_DEV_DEBUG": "false",
    }
    library = source()
    if library and not is_installed(target):
        options += ["-Z", "build-std"]
        environment |= {"RUSTC_BOOTSTRAP": "1", "__CARGO_TESTS_ONLY_SRC_ROOT": str(library)}
    command = ["cargo", first, *options, *rest]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def is_installed(target: str) -> bool:
    """Whether the target's standard library is there, compiled."""
    return any((sysroot() / "lib/rustlib" / target / "lib").glob("libstd-*"))


def source() -> Path | None:
    """The source of the standard library of this compiler's version."""
    folders = (sysroot() / "lib/rustlib/src/rust/library", FOLDER / "library" / compiler() / "library")
    return next((folder for folder in folders if (folder / "Cargo.lock").exists()), None)


def sysroot() -> Path:
    """Where the compiler is installed."""
    return Path(output("rustc", "--print", "sysroot"))


def compiler() -> str:
    """The compiler's version, without the name of a channel."""
    return output("rustc", "--version").split()[1].partition("-")[0]


def fetch_library() -> str:
    """Unpacks the source of the standard library; returns why it could not."""
    for suite in SUITES:
        with release(suite) as environment:
            rows = output("apt-cache", "madison", "rust-src", env=environment).splitlines()
            versions = {row.split("|")[1].strip() for row in rows}
            for version in versions:
                if version.startswith(f"{compiler()}+"):
                    packages = FOLDER / "packages"
                    download(packages, f"rust-src={version}", env=environment)
                    unpack_library(next(packages.glob("*.deb")))
                    shutil.rmtree(packages)
                    return ""
    return f"Debian has no source of Rust {compiler()}"


def unpack_library(package: Path) -> None:
    """Unpacks the standard library alone: the package has the compiler, too."""
    folder = FOLDER / "library" / compiler()
    part = folder.with_name("part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    contents = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE)
    inner = f"./usr/src/rustc-{compiler()}/library"
    command = ["tar", "--extract", "--directory", str(part), "--strip-components", "4", inner]
    subprocess.run(command, stdin=contents.stdout, check=True)
    contents.wait()
    part.rename(folder)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
