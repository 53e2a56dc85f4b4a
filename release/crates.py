"""Generates what derives from the crates in the wheels: THIRD-PARTY-LICENSES, and a table of docs/dependencies.md."""

from __future__ import annotations

import json
import re
import subprocess
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

# Of each system that has a wheel; what a crate needs does not differ between architectures and C libraries.
SYSTEMS = {
    "Linux": "x86_64-unknown-linux-gnu",
    "macOS": "aarch64-apple-darwin",
    "Windows": "x86_64-pc-windows-msvc",
}

LICENSES = """\
The extension module in the wheels of runtime-metrics contains these works of others. Where a license may be chosen, the
one that is reproduced or named here is the choice. The text of Apache-2.0 is in the file LICENSE beside this one.
`make generate` writes this file.

{texts}
{rule}
The standard library of Rust and the crates in it
{rule}

Copyright (c) The Rust Project Developers (see https://thanks.rust-lang.org) and the authors of the crates.
License: Apache-2.0. Its tables of Unicode properties have this license:

{unicode}"""
RULE = "-" * 80
UNDER_APACHE = "License: Apache-2.0. The crate contains no text of it.\n"


@dataclass(frozen=True)
class Crate:
    """A crate that is linked into the wheel of some systems."""

    name: str
    version: str
    license: str
    repository: str
    folder: Path
    direct: bool
    systems: tuple[str, ...]

    def text(self) -> str:
        """The license that applies to us: the shortest one, if it may be chosen."""
        for name in ("LICENSE-MIT", "license-mit", "LICENSE"):
            path = self.folder / name
            if path.exists() and "MIT" in self.license:
                return path.read_text()
        if "Apache-2.0" not in self.license:
            raise ValueError(f"which license has {self.name}? It says {self.license}")
        return UNDER_APACHE


def cargo(command: str, *options: str) -> str:
    """What a command of cargo prints for the extension."""
    call = ["cargo", command, "--locked", "--features=python", *options]
    return subprocess.run(call, cwd=ROOT, check=True, capture_output=True, text=True).stdout


@cache
def packages() -> tuple[list[dict[str, Any]], set[str]]:
    """Every package of Cargo.lock, and the names of those that Cargo.toml names."""
    metadata = json.loads(cargo("metadata", "--format-version=1"))
    root = metadata["resolve"]["root"]
    (ours,) = (package for package in metadata["packages"] if package["id"] == root)
    others = [package for package in metadata["packages"] if package is not ours]
    return others, {dependency["name"] for dependency in ours["dependencies"]}


def linked(triple: str) -> set[tuple[str, str]]:
    """The names and versions whose code the extension for this target contains: no macros, no build scripts.

    `cargo metadata` would count what the tests alone turn on as well.
    """
    tree = ("--edges=normal,no-proc-macro", f"--target={triple}", "--prefix=none", "--format={p}")
    lines = cargo("tree", *tree).splitlines()
    return {(name, version.removeprefix("v")) for name, version, *_ in map(str.split, lines)}


@cache
def crates() -> tuple[Crate, ...]:
    """Every crate that is linked into a wheel, by name."""
    by_system = {system: linked(triple) for system, triple in SYSTEMS.items()}
    others, named = packages()
    found = [
        Crate(
            package["name"],
            package["version"],
            # An older way to write the same.
            package["license"].replace("/", " OR "),
            package["repository"],
            Path(package["manifest_path"]).parent,
            package["name"] in named,
            systems,
        )
        for package in others
        if (
            systems := tuple(
                system
                for system, known in by_system.items()
                if (package["name"], package["version"]) in known
            )
        )
    ]
    return tuple(sorted(found, key=lambda crate: crate.name))


def licenses() -> str:
    """The text of THIRD-PARTY-LICENSES: each license once, with the crates that have it."""
    owners = defaultdict(list)
    for crate in crates():
        owners[tidy(crate.text())].append(f"{crate.name} {crate.version}")
    texts = [f"{RULE}\n{', '.join(names)}\n{RULE}\n\n{text}" for text, names in owners.items()]
    (idents,) = (package for package in packages()[0] if package["name"] == "unicode-ident")
    unicode = tidy((Path(idents["manifest_path"]).parent / "LICENSE-UNICODE").read_text())
    return LICENSES.format(texts="\n".join(texts), unicode=unicode, rule=RULE)


def tidy(text: str) -> str:
    """A text without space at the ends of its lines and around it."""
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines()) + "\n"


def table() -> str:
    """What the direct dependencies bring with them, for docs/dependencies.md."""
    rows = [
        f"| [{crate.name}]({crate.repository.rstrip('/')}) | {crate.license} | {', '.join(crate.systems)} |"
        for crate in crates()
        if not crate.direct
    ]
    return "\n".join(["| Crate | License | Linked on |", "| --- | --- | --- |", *rows])


def generated() -> dict[Path, str]:
    """The text of both files."""
    page = ROOT / "docs" / "dependencies.md"
    return {
        ROOT / "THIRD-PARTY-LICENSES": licenses(),
        page: re.sub(
            r"(?<=<!-- crates: generated by `make generate` -->\n).*?(?=<!-- end of crates -->)",
            lambda _: f"\n{table()}\n\n",
            page.read_text(),
            flags=re.DOTALL,
        ),
    }


if __name__ == "__main__":
    for path, text in generated().items():
        path.write_text(text)
