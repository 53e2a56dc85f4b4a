"""Checks, builds and runs this library for other platforms, as far as this machine can, and makes a table of it.

    make test-platforms                     # all of PLATFORMS
    make test-platforms PLATFORMS=musl      # those of these names: the other rows stay as they are

Each platform is a function that returns a row. Run is more than built, built more than checked. The table is printed,
and written into docs/platforms.md and the README. The exit status is 1 if anything failed; what could not be done is no
failure, and has its reason in the table.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

from free_threaded import free_threaded
from linux import aarch64, musl
from rows import ROOT, Row, clippy
from windows import windows

if TYPE_CHECKING:
    from collections.abc import Callable, Collection


def macos_arm64() -> Row:
    """A Mac with one of Apple's processors."""
    return macos("aarch64-apple-darwin")


def macos_x86_64() -> Row:
    """A Mac with one of Intel's processors."""
    return macos("x86_64-apple-darwin")


def macos(target: str) -> Row:
    """Clippy alone."""
    return Row(target, clippy(target), "no: needs Apple's SDK", "no: needs a Mac")


# A row each, in this order.
PLATFORMS: tuple[Callable[[], Row], ...] = (
    aarch64,
    musl,
    free_threaded,
    windows,
    macos_arm64,
    macos_x86_64,
)

PAGE, README = ROOT / "docs/platforms.md", ROOT / "README.md"
HEAD = "| target | checked | built | run |\n| --- | --- | --- | --- |\n"
TABLE = re.compile(
    r"(?<=<!-- platforms: written by `make test-platforms` -->\n).*?(?=<!-- end of platforms -->)", re.DOTALL
)


def written() -> dict[str, Row]:
    """The rows of the page, by target: those that were not asked for stay as they are."""
    lines = re.findall(r"^\| (\w+-.*) \|$", table(PAGE.read_text())[0], re.MULTILINE)
    return {row.target: row for row in (Row(*line.split(" | ")) for line in lines)}


def write(rows: Collection[Row]) -> None:
    """Writes the table into the page, and a word for each cell into the README."""
    full = [(row.target, row.checked, row.built, row.run) for row in rows]
    short = [(row.target, *row.words()) for row in rows]
    for path, lines in ((PAGE, full), (README, short)):
        text = path.read_text()
        body = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        new = f"\n{HEAD}{body}\n"
        old = table(text)
        path.write_text(text[: old.start()] + new + text[old.end() :])


def table(text: str) -> re.Match[str]:
    """Where the table of a document is."""
    found = TABLE.search(text)
    assert found is not None
    return found


def main(names: list[str]) -> int:
    """Prints the table, and writes it into the documents."""
    done = [platform() for platform in PLATFORMS if not names or platform.__name__ in names]
    rows = written() | {row.target: row for row in done}
    write([*rows.values()])
    print(table(PAGE.read_text())[0])
    return int(any(row.failed() for row in done) or not done)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
