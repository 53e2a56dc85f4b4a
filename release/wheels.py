"""Builds a wheel for every target that this machine can build for, in dist/wheels/, and checks each.

For a target that it cannot build for, it prints in one line what to install.

python release/wheels.py [--all] [NAME ...]

A NAME is a part of a wheel's name, such as `aarch64`, `musllinux` or `cp314t`. --all builds those of this system, and
fails if one is left out.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import wheel_checks

ROOT = Path(__file__).resolve().parent.parent
BUILT = ROOT / "dist" / "wheels"

# The source of the toolchain's standard library, as `make library` unpacks it: where there is one, cargo builds the
# library for a target that the toolchain has none for.
SOURCES = [
    *filter(None, [os.environ.get("RUST_LIBRARY_SOURCE")]),
    *map(str, ROOT.glob(".platforms/library/*/library")),
]


@dataclass(frozen=True)
class Target:
    """One wheel."""

    system: str
    triple: str
    # As the wheel's name has it; `python` is the tag before the platform.
    platform: str
    python: str = "cp310-abi3"
    interpreter: str = "python3.10"
    features: str = "python"

    @property
    def name(self) -> str:
        """What identifies it."""
        return f"{self.python}-{self.platform}"

    @property
    def linux(self) -> bool:
        """Whether it is built for Linux, which zig does on every system."""
        return self.system == "linux"


def linux(**options: str) -> list[Target]:
    """A wheel for every Linux: glibc 2.17 serves older systems than any CPython that we support."""
    return [
        Target("linux", f"{machine}-unknown-linux-{library}", f"{tag}_{machine}", **options)
        for tag, library in (("manylinux_2_17", "gnu"), ("musllinux_1_2", "musl"))
        for machine in ("x86_64", "aarch64")
    ]


TARGETS = [
    *linux(),
    # The free-threaded builds cannot load the stable ABI of the others, and from 3.15 on they have one of their own.
    *linux(python="cp314-cp314t", interpreter="python3.14t"),
    *linux(python="cp315-abi3.abi3t", interpreter="python3.15", features="python,pyo3/abi3t-py315"),
    Target("darwin", "aarch64-apple-darwin", "macosx_11_0_arm64"),
    Target("darwin", "x86_64-apple-darwin", "macosx_10_12_x86_64"),
    Target("win32", "x86_64-pc-windows-msvc", "win_amd64"),
]


def lack(target: Target) -> str | None:
    """What this machine lacks for a target."""
    if target.linux and shutil.which("python-zig") is None:
        return "zig: pip install ziglang"
    if not target.linux and target.system != sys.platform:
        return {"darwin": "macOS", "win32": "Windows"}[target.system]
    if not built_library(target) and not SOURCES:
        return f"its standard library: rustup target add {target.triple}"
    return None


def built_library(target: Target) -> bool:
    """Whether the toolchain has the standard library for a target."""
    command = ["rustc", "--print", "target-libdir", "--target", target.triple]
    folder = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    return any(Path(folder).glob("libstd-*"))


def build(target: Target) -> Path:
    """Builds the wheel of a target; returns where it is."""
    out = ROOT / "target" / "wheels" / target.name
    shutil.rmtree(out, ignore_errors=True)
    command = ["maturin", "build", "--quiet", "--release", "--locked", "--out", str(out)]
    command += ["--target", target.triple, "--interpreter", target.interpreter, "--features", target.features]
    environment = dict(os.environ)
    if target.linux:
        command += ["--zig", "--compatibility", target.platform.rpartition(f"_{machine(target)}")[0]]
    if target.triple.endswith("gnu"):
        environment["RUSTFLAGS"] = f"-C link-arg={unwinder(machine(target))}"
    if not built_library(target):
        command += ["-Z", "build-std"]
        environment |= {"RUSTC_BOOTSTRAP": "1", "__CARGO_TESTS_ONLY_SRC_ROOT": SOURCES[0]}
    # What maturin writes is of interest only if it fails: a standard library from its source is a page of warnings.
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\n{target.name}: {' '.join(command)} failed")
    (wheel,) = out.glob("*.whl")
    BUILT.mkdir(parents=True, exist_ok=True)
    return wheel.replace(BUILT / wheel.name)


def machine(target: Target) -> str:
    """The architecture."""
    return target.triple.partition("-")[0]


def unwinder(architecture: str) -> Path:
    """A library that stands for libgcc's unwinder at the link.

    zig would link an unwinder of its own; a process must have one: CPython ends threads by unwinding them with
    libgcc's, ours included.
    """
    folder = ROOT / "target" / "unwinder" / architecture
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "unwinder.c"
    source.write_text("".join(f"void {name}(void) {{}}\n" for name in wheel_checks.UNWINDING))
    library = folder / "libgcc_s.so.1"
    options = [f"--target={architecture}-linux-gnu.2.17", "-shared", "-nostdlib", "-Wl,-soname,libgcc_s.so.1"]
    command = [sys.executable, "-m", "ziglang", "cc", *options, "-o", str(library), str(source)]
    subprocess.run(command, check=True)
    return library


def main() -> int:
    """Builds what was asked for, and prints a line for each target."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--all", action="store_true", help="all of this system: fail if one is left out")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="build those whose name contains one of these"
    )
    options = parser.parse_args()
    chosen = [
        target
        for target in TARGETS
        if (not options.all or target.system == sys.platform)
        and (not options.names or any(name in target.name for name in options.names))
    ]
    if not chosen:
        sys.exit(f"no wheel has such a name; there are {', '.join(target.name for target in TARGETS)}")
    left_out = wrong = 0
    for target in chosen:
        missing = lack(target)
        if missing is not None:
            left_out += 1
            print(f"{target.name}: left out, lacks {missing}", flush=True)
            continue
        wheel = build(target)
        faults = wheel_checks.faults(wheel)
        if not re.fullmatch(rf"runtime_metrics-[^-]+-{re.escape(target.python)}-.*", wheel.name) or (
            target.platform not in wheel.stem.rpartition("-")[2].split(".")
        ):
            faults.append("its tag is another")
        wrong += bool(faults)
        kilobytes = wheel.stat().st_size // 1000
        print(f"{target.name}: {kilobytes} kB, {'; '.join(faults) or 'checked'}: {wheel.name}", flush=True)
    return int(wrong > 0 or (options.all and left_out > 0))


if __name__ == "__main__":
    sys.exit(main())
