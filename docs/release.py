"""Prepares a tree for an upload to a package index, with the address of the repository that it is told.

It makes the links of the README absolute, which are relative to the repository, and adds the project's URLs to the
metadata of both distributions. Nothing of that is committed.

python docs/release.py https://example.org/runtime-metrics
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

URLS = """\
[project.urls]
Repository = "{address}"
Documentation = "{files}/README.md"
Changelog = "{files}/CHANGELOG.md"
Issues = "{address}/issues"

"""


def prepare(root: Path, address: str) -> None:
    """Changes README.md and both pyproject.toml of the tree at `root`."""
    # The first is that of the package.
    version, *_ = re.findall(r'^version = "(.+)"$', (root / "Cargo.toml").read_text(), re.MULTILINE)
    files = f"{address}/blob/v{version}"
    readme = root / "README.md"
    readme.write_text(re.sub(r"\]\((?!https://|#)", f"]({files}/", readme.read_text()))
    for manifest in (root / "pyproject.toml", root / "autostart" / "pyproject.toml"):
        before, heading, after = manifest.read_text().partition("[tool.")
        urls = URLS.format(address=address, files=files)
        manifest.write_text(f"{before}{urls}{heading}{after}")


if __name__ == "__main__":
    if len(sys.argv) != 2 or not re.fullmatch(r"https://\S+[^/\s]", sys.argv[1]):
        sys.exit(
            "usage: python docs/release.py ADDRESS, the https:// address of the repository, without a / at its end"
        )
    prepare(Path(__file__).resolve().parent.parent, sys.argv[1])
