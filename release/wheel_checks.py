"""What holds for every wheel: its tag, its size, what is in it, and what its extension expects of the system."""

from __future__ import annotations

import io
import re
import zipfile
from itertools import product
from typing import TYPE_CHECKING

from abi3info import DATAS, FUNCTIONS  # type: ignore[import-untyped]
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection
from elftools.elf.sections import SymbolTableSection

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# What an unwinder has, as far as the standard library of Rust uses it.
UNWINDING = [
    f"_Unwind_{name}"
    for name in (
        *(
            "Backtrace",
            "DeleteException",
            "FindEnclosingFunction",
            "GetCFA",
            "GetDataRelBase",
            "GetIP",
            "GetIPInfo",
        ),
        *(
            "GetLanguageSpecificData",
            "GetRegionStart",
            "GetTextRelBase",
            "RaiseException",
            "Resume",
            "SetGR",
            "SetIP",
        ),
    )
]

MACHINES = {"x64": "x86_64", "AArch64": "aarch64"}

# The libraries that may be expected on every Linux of the kind.
GLIBC = re.compile(r"lib(c|m|dl|rt|pthread)\.so\.\d|ld-linux-[\w-]+\.so\.\d|libgcc_s\.so\.1")
MUSL = re.compile(r"libc\.so")

SIZE = range(100_000, 1_350_001)
# Of everything beside the extension and the metadata.
MAX_REST = 250_000

STABLE = {symbol.name: entry.added for table in (FUNCTIONS, DATAS) for symbol, entry in table.items()}


def faults(wheel: Path) -> list[str]:
    """What is wrong with a wheel, in a few words each."""
    return list(_faults(wheel))


def _faults(wheel: Path) -> Iterator[str]:
    python, abi, platform = wheel.stem.split("-")[-3:]
    with zipfile.ZipFile(wheel) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
        (described,) = (name for name in sizes if name.endswith(".dist-info/WHEEL"))
        metadata = described.removesuffix("WHEEL")
        tags = set(re.findall(r"^Tag: (\S+)$", archive.read(described).decode(), re.MULTILINE))
        extensions = [name for name in sizes if name.endswith((".so", ".pyd"))]
        content = [archive.read(name) for name in extensions]
    if tags != {"-".join(tag) for tag in product(*(part.split(".") for part in (python, abi, platform)))}:
        yield f"its name and its metadata differ: {sorted(tags)}"
    needed = [f"{metadata}licenses/{name}" for name in ("LICENSE", "THIRD-PARTY-LICENSES")]
    needed += [f"{metadata}sboms/runtime-metrics.cyclonedx.json", "runtime_metrics/py.typed"]
    needed += ["runtime_metrics/_core.pyi"]
    yield from (f"it has no {name}" for name in needed if name not in sizes)
    if len(extensions) != 1 or sizes[extensions[0]] not in SIZE:
        yield f"its extension has another size: {[sizes[name] for name in extensions]}"
    rest = sum(
        size for name, size in sizes.items() if name not in extensions and not name.startswith(metadata)
    )
    if rest > MAX_REST:
        yield f"it has {rest} bytes beside its extension"
    if "linux" in platform:
        for extension in content:
            yield from _expected(extension, python, abi, platform)


def _expected(extension: bytes, python: str, abi: str, platform: str) -> Iterator[str]:
    """What an extension for Linux expects that is not there, by the libraries it names and the symbols it lacks."""
    elf = ELFFile(io.BytesIO(extension))
    if not platform.endswith(MACHINES.get(elf.get_machine_arch(), "unknown")):
        yield f"it is for {elf.get_machine_arch()}"
    musl = "musllinux" in platform
    sections = list(elf.iter_sections())
    (dynamic,) = (section for section in sections if isinstance(section, DynamicSection))
    libraries = [tag.needed for tag in dynamic.iter_tags("DT_NEEDED")]  # type: ignore[attr-defined]
    yield from (f"it needs {name}" for name in libraries if not (MUSL if musl else GLIBC).fullmatch(name))
    undefined = {
        symbol.name
        for section in sections
        if isinstance(section, SymbolTableSection)
        for symbol in section.iter_symbols()
        if symbol["st_shndx"] == "SHN_UNDEF"
    }
    if not musl:
        # zig would link one, and on musl, which does not end threads by unwinding them, it may.
        if "libgcc_s.so.1" not in libraries or not any(name.startswith("_Unwind_") for name in undefined):
            yield "it has an unwinder of its own"
        newest = max(
            tuple(map(int, version.name.removeprefix("GLIBC_").split(".")))
            for section in sections
            if isinstance(section, GNUVerNeedSection)
            for _, wanted in section.iter_versions()
            for version in wanted
            if version.name.startswith("GLIBC_")
        )
        if newest > (2, 17):
            yield f"it needs glibc {newest}"
    if "abi3" in abi:
        minimum = (int(python[2:3]), int(python[3:]))
        unstable = {
            name
            for name in undefined
            if name.startswith(("Py", "_Py"))
            and ((added := STABLE.get(name)) is None or (added.major, added.minor) > minimum)
        }
        if unstable:
            yield f"it uses what is not in the stable ABI: {sorted(unstable)}"
