"""Windows: clippy, and the Rust tests under Wine."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from rows import FOLDER, Row, built, cargo, clippy, debian, tests

HERE = Path(__file__).resolve().parent


def windows() -> Row:
    """Windows: clippy for MSVC, and the Rust tests, built by mingw, under Wine."""
    row = Row("x86_64-pc-windows", checked=clippy("x86_64-pc-windows-msvc"))
    target, root = "x86_64-pc-windows-gnu", FOLDER / "root"
    if reason := debian("packages", "gcc-mingw-w64-x86-64-posix", "wine64"):
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
            done = cargo(target, "test", "--tests", "--no-fail-fast", environment=environment)
            row.run = f"{tests(done)} that are not Linux's own; under Wine"
        subprocess.run([runner, "wineboot", "--kill"], check=False)
    return row


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
