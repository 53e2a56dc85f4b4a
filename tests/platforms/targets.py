"""Checks, builds and runs this library for other platforms, as far as this machine can, and prints a table of it.

    python tests/platforms/targets.py [NAME...]    # all of PLATFORMS, or those of these names

Each platform is a function that returns a row. Run is more than built, built more than checked. The exit status is 1
if anything failed; what could not be done is no failure, and has its reason in the table.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rows import Row, clippy
from windows import windows

if TYPE_CHECKING:
    from collections.abc import Callable


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
    windows,
    macos_arm64,
    macos_x86_64,
)


def main(names: list[str]) -> int:
    """Prints the table."""
    rows = [platform() for platform in PLATFORMS if not names or platform.__name__ in names]
    print("\n| target | checked | built | run |\n| --- | --- | --- | --- |")
    for row in rows:
        print(f"| {row.target} | {row.checked} | {row.built} | {row.run} |")
    return int(any(row.failed() for row in rows) or not rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
