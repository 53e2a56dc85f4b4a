"""Packs the stable-ABI wheels for Linux into layers for AWS Lambda, in dist/layers/: one for each architecture.

The same wheel gives the same bytes. python release/layer.py
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WHEELS = ROOT / "dist" / "wheels"
LAYERS = ROOT / "dist" / "layers"

# What AWS calls an architecture, and what a wheel calls it.
ARCHITECTURES = {"x86_64": "x86_64", "arm64": "aarch64"}

# The earliest that the format knows.
DATE = (1980, 1, 1, 0, 0, 0)


def pack(wheel: Path, layer: Path) -> None:
    """Writes a wheel as a layer: what is in `python/` is on the function's path."""
    layer.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(layer, "w") as target:
        for name in sorted(source.namelist()):
            entry = zipfile.ZipInfo(f"python/{name}", DATE)
            # Functions run as another user than the one that the platform unpacks as.
            entry.external_attr = (0o755 if name.endswith(".so") else 0o644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            target.writestr(entry, source.read(name), compresslevel=9)


def main() -> int:
    """Packs the wheels that there are, and prints the size of each layer; fails if there is none."""
    packed = 0
    for architecture, machine in ARCHITECTURES.items():
        found = sorted(WHEELS.glob(f"*-cp310-abi3-*manylinux*_{machine}.whl"))
        if len(found) != 1:
            print(
                f"{architecture}: left out, {len(found)} wheels in {WHEELS.relative_to(ROOT)}/: make wheels"
            )
            continue
        layer = LAYERS / f"runtime-metrics-lambda-{architecture}.zip"
        pack(found[0], layer)
        with zipfile.ZipFile(layer) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        sizes = f"{layer.stat().st_size // 1000} kB, {unpacked // 1000} kB unpacked"
        print(f"{architecture}: {sizes}: {layer.relative_to(ROOT)}")
        packed += 1
    return int(packed == 0)


if __name__ == "__main__":
    sys.exit(main())
