"""Linux on another processor, and with another C library."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import interpreters
from rows import FOLDER, Row, cargo, clippy, debian, script, tests

if TYPE_CHECKING:
    from pathlib import Path

# What is unpacked to run here.
TOOLS = FOLDER / "root"

# The release of Debian whose interpreter is run, and those whose qemu is: the older one does not wipe the pages that a
# fork should, and is what runs images of another processor on many a machine.
STABLE, NEWEST, OLDER = "trixie", "sid", "bookworm"

# qemu has a thread of its own, and a library to be preloaded would have to be for two processors.
NOT_UNDER_QEMU = "adds_two_threads or silent_name_server"

# qemu does not pass on what the kernel knows about sockets. Two tests start themselves, which the kernel cannot do for
# another processor.
NOT_UNDER_QEMU_IN_RUST = (
    "sources::accept_queue",
    "knows_the_command_line_of_its_parent",
    "in_a_real_namespace",
)

# CPython 3.13 frees the state of a daemon thread that looks at it after it has released the GIL. With musl, whose
# memory may be gone at once, that is a crash at the exit, now and then:
# https://github.com/python/cpython/issues/154175
NOT_WITH_MUSL = "daemon_thread_in_a_flush"


def aarch64() -> Row:
    """Linux on ARM: its programs, emulated by qemu, on this machine's kernel."""
    target, root = "aarch64-unknown-linux-gnu", FOLDER / "aarch64/root"
    row = Row(target, checked=clippy(target))
    wheel, row.built = interpreters.wheel("cp310-abi3-manylinux_2_17_aarch64")
    there = ("--suite", STABLE, "--architecture", "arm64", "--into", "aarch64/root")
    reason = (
        debian("packages", "--suite", NEWEST, "--into", "qemu", "qemu-user")
        or debian("packages", "--suite", OLDER, "--into", "qemu-older", "qemu-user-static")
        or debian("packages", *there, "python3", "libstdc++6")
    )
    if reason or wheel is None:
        row.run = f"no: {reason or 'there is no wheel'}"
        return row
    if not (root / "lib").exists():
        (root / "lib").symlink_to("usr/lib")
    qemu = FOLDER / "qemu/usr/bin/qemu-aarch64"
    python = emulated(root / "usr/bin/python", qemu)
    python = interpreters.environment("aarch64", python, "manylinux_2_17_aarch64", wheel)
    older = emulated(python.with_name("older"), FOLDER / "qemu-older/usr/bin/qemu-aarch64-static")
    row.run = interpreters.program(older) or (
        f"{interpreters.run(python, NOT_UNDER_QEMU)}, {rust_tests(target, qemu)}; under qemu"
    )
    return row


def rust_tests(target: str, qemu: Path) -> str:
    """Runs the Rust tests under qemu, linked by Debian's compiler; says what passed."""
    if reason := debian("packages", "gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"):
        return f"no Rust tests: {reason}"
    # The compiler expects to be installed.
    linker = script(
        FOLDER / "aarch64/linker",
        f"export LD_LIBRARY_PATH='{TOOLS}/usr/lib/x86_64-linux-gnu'",
        f"exec '{TOOLS}/usr/bin/aarch64-linux-gnu-gcc' --sysroot='{TOOLS}' \"$@\"",
    )
    runner = script(FOLDER / "aarch64/runner", f"exec '{qemu}' -L '{FOLDER}/aarch64/root' \"$@\"")
    environment = {
        "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER": str(linker),
        "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER": str(runner),
    }
    skipped = [word for name in NOT_UNDER_QEMU_IN_RUST for word in ("--skip", name)]
    words = ("test", "--tests", "--no-fail-fast", "--", *skipped)
    # Not all of them.
    return tests(cargo(target, *words, environment=environment)).removeprefix("all ")


def emulated(path: Path, qemu: Path) -> Path:
    """Writes a command that runs the interpreter under qemu.

    The kernel can execute it where it knows no program of the platform: it serves as `sys.executable`.
    """
    root = FOLDER / "aarch64/root"
    return script(path, f"exec '{qemu}' -0 \"$0\" -L '{root}' '{root}/usr/bin/python3.13' \"$@\"")


def musl() -> Row:
    """Linux with musl, as Alpine has it: the interpreter is built here, since Debian has none."""
    target, python = "x86_64-unknown-linux-musl", FOLDER / "musl/bin/python3"
    row = Row(target, checked=clippy(target))
    wheel, row.built = interpreters.wheel("cp310-abi3-musllinux_1_2_x86_64")
    there = ("--suite", STABLE, "--into")
    reason = (
        debian("packages", "musl-tools")
        # Wheels for Alpine need musl 1.2.4 by now: they have relative relocations in their packed form.
        or debian("packages", *there, "musl/root", "musl")
        or debian("source", *there, "musl/source", "python3.13")
    )
    if not reason and not python.exists():
        reason = build_with_musl()
    if reason or wheel is None:
        row.run = f"no: {reason or 'there is no wheel'}"
        return row
    python = interpreters.environment("musl", python, "musllinux_1_2_x86_64", wheel)
    row.run = interpreters.run(python, NOT_WITH_MUSL)
    return row


def build_with_musl() -> str:
    """Builds CPython with musl; returns why it could not. Without ctypes and ssl, whose libraries are not here."""
    folder = FOLDER / "musl"
    library = folder / "root/usr/lib/x86_64-linux-musl"
    # Debian's compiler expects to be installed.
    text = (TOOLS / "usr/lib/x86_64-linux-musl/musl-gcc.specs").read_text()
    text = text.replace("/lib/ld-musl-x86_64.so.1", f"{library}/libc.so")
    text = text.replace("-L/usr/", f"-L{library} -L{TOOLS}/usr/").replace(" /usr/", f" {TOOLS}/usr/")
    (folder / "gcc.specs").write_text(text)
    compiler = script(
        folder / "gcc",
        '[ "$1" = --print-multiarch ] && exec echo x86_64-linux-musl',
        f"exec gcc \"$@\" -specs '{folder}/gcc.specs'",
    )
    build = folder / "build"
    build.mkdir(exist_ok=True)
    options = (f"--prefix={folder}", f"CC={compiler}", "PKG_CONFIG=/bin/false", "--without-ensurepip")
    for command in (
        [str(folder / "source/configure"), "--quiet", "--disable-test-modules", *options],
        ["make", f"--jobs={os.cpu_count()}"],
        # Modules are compiled when they are imported.
        ["make", "install", "COMPILEALL_OPTS=-x ."],
    ):
        if subprocess.run(command, cwd=build, stdout=subprocess.DEVNULL, check=False).returncode:
            return f"CPython could not be built: {' '.join(command[:2])}"
    return ""
