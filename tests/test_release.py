"""What a release consists of: its workflows, the licenses of what it links, and the pages that describe it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import audit
import crates
import pytest
import wheels
from launching import VERSIONS
from serving import ROOT
from test_deploy import LINTERS, complaints

if TYPE_CHECKING:
    from pathlib import Path

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*"))


def actionlint(path: Path) -> str:
    """Errors in the form of a workflow, in its expressions and, by shellcheck, in its commands."""
    return complaints("actionlint", "-no-color", "-shellcheck", LINTERS / "bin" / "shellcheck", path)


def zizmor(path: Path) -> str:
    """What an attacker could use."""
    return complaints("zizmor", "--offline", "--no-progress", "--quiet", path)


class Mistake(NamedTuple):
    """A mistake that a linter must find, and a part of its complaint."""

    lint: str
    right: str
    wrong: str
    complaint: str


LINTS = {"actionlint": actionlint, "zizmor": zizmor}
MISTAKES = [
    Mistake("actionlint", "runs-on: ubuntu-24.04", "runs-on: ubuntu-24.4", 'label "ubuntu-24.4" is unknown'),
    Mistake("actionlint", "needs: attest", "needs: attested", '"attested"'),
    Mistake("actionlint", 'test "$GITHUB_REF_NAME"', "test $GITHUB_REF_NAME", "SC2086"),
    Mistake(
        "zizmor", "permissions:\n      contents: write", "permissions: write-all #", "excessive-permissions"
    ),
    Mistake("zizmor", "persist-credentials: false", "fetch-depth: 1", "artipacked"),
    Mistake("zizmor", 'test "$GITHUB_REF_NAME"', 'test "${{ github.ref_name }}"', "template-injection"),
    Mistake("zizmor", "@3d3c42e5aac5ba805825da76410c181273ba90b1", "@v7", "unpinned-uses"),
]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
@pytest.mark.parametrize("lint", LINTS)
def test_the_linter_accepts_the_workflow(lint: str, path: Path) -> None:
    assert LINTS[lint](path) == ""


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.complaint)
def test_the_linter_notices_a_mistake(mistake: Mistake, tmp_path: Path) -> None:
    folder = tmp_path / ".github" / "workflows"
    folder.mkdir(parents=True)
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    assert mistake.right in text
    (folder / "release.yml").write_text(text.replace(mistake.right, mistake.wrong, 1))
    assert mistake.complaint in LINTS[mistake.lint](folder / "release.yml")


def test_dependabots_file_has_its_form() -> None:
    path = ROOT / ".github" / "dependabot.yml"
    assert complaints("check-jsonschema", "--builtin-schema", "vendor.dependabot", path) == ""


def workflow(name: str) -> dict[str, Any]:
    """A workflow, parsed."""
    program = "import json, sys, yaml; json.dump(yaml.safe_load(sys.stdin), sys.stdout)"
    text = (ROOT / ".github" / "workflows" / name).read_text()
    command: list[str | Path] = [LINTERS / "bin" / "python", "-c", program]
    read = subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout
    loaded: dict[str, Any] = json.loads(read)
    return loaded


def test_ci_covers_every_version_that_the_metadata_claim() -> None:
    jobs = workflow("ci.yml")["jobs"]
    assert jobs["python"]["strategy"]["matrix"]["python"] == VERSIONS
    (versions,) = (
        step["with"] for step in jobs["check"]["steps"] if "python-version" in step.get("with", {})
    )
    assert sorted(versions["python-version"].split()) == VERSIONS


def test_a_release_publishes_what_is_checked_and_the_companion_last() -> None:
    jobs = workflow("release.yml")["jobs"]
    assert set(jobs["attest"]["needs"]) == {"check", "linux", "elsewhere"}
    assert (jobs["publish"]["needs"], jobs["publish-autostart"]["needs"]) == ("attest", "publish")
    # Only these may ask for an identity, and no other permission comes with it.
    signing = {
        name: set(job["permissions"]) for name, job in jobs.items() if "id-token" in job["permissions"]
    }
    assert signing.pop("attest") == {"contents", "id-token", "attestations", "artifact-metadata"}
    assert signing == {"publish": {"id-token"}, "publish-autostart": {"id-token"}}
    assert "secrets." not in (ROOT / ".github" / "workflows" / "release.yml").read_text()


def test_each_target_of_make_that_a_workflow_calls_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = [line for path in WORKFLOWS for line in re.findall(r"run: make (.*)", path.read_text())]
    called = {word for line in commands for word in line.split() if "=" not in word}
    assert {"check", "wheels", "layer", "sdist"} <= called <= targets


def test_the_licenses_and_the_table_of_crates_are_up_to_date() -> None:
    generated = crates.generated()
    assert len(generated) == 2
    for path, text in generated.items():
        assert path.read_text() == text, f"{path.name}: run `make generate`"


def test_each_crate_in_a_wheel_has_its_license_and_its_reason() -> None:
    texts = (ROOT / "THIRD-PARTY-LICENSES").read_text()
    page = (ROOT / "docs" / "dependencies.md").read_text()
    found = crates.crates()
    assert {"cadence", "libc", "nix", "pyo3-ffi", "windows-sys"} <= {crate.name for crate in found}
    assert [crate.name for crate in found if f"{crate.name} {crate.version}" not in texts] == []
    assert [c.name for c in found if c.direct and f"\n### {c.name}\n\n- Why: " not in page] == []
    assert page.count("\n- Without: ") == page.count("\n- License and upkeep: ") == page.count("\n### ")
    licenses = {c.name: c.license for c in found if c.direct}
    described = dict(
        re.findall(r"^### (\S+)\n(?:.+\n|\n)*?- License and upkeep: (.+?)\. ", page, re.MULTILINE)
    )
    assert described == licenses


def test_the_changelog_describes_the_version_that_is_next() -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)
    assert version
    headings = re.findall(r"^## \[(.+?)\](?: - (.+))?$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0][0] in ("Unreleased", version[1])
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", date) for name, date in headings if name != "Unreleased")


def test_package_indexes_can_show_each_page() -> None:
    built = [*ROOT.glob("dist/*.whl"), *ROOT.glob("dist/*.tar.gz"), *ROOT.glob("dist/autostart/runtime*")]
    assert len(built) == 4
    assert complaints("twine", "check", "--strict", *built) == ""


@pytest.mark.parametrize("name", ["aarch64-unknown-linux-gnu", "x86_64-unknown-linux-musl"])
def test_a_wheel_that_cannot_be_built_here_is_one_line_that_says_what_to_install(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # A toolchain that has no standard library but its own.
    tool = tmp_path / "rustc"
    tool.write_text(f"#!/bin/sh\necho {tmp_path}/lib/rustlib/$5/lib\n")
    tool.chmod(0o755)
    search = [str(tmp_path), str(ROOT / ".venv" / "bin"), os.environ["PATH"]]
    monkeypatch.setenv("PATH", os.pathsep.join(search))
    monkeypatch.setattr(wheels, "SOURCES", [])
    chosen = [target for target in wheels.TARGETS if target.triple == name]
    monkeypatch.setattr(sys, "argv", ["wheels.py", *(target.name for target in chosen)])
    assert wheels.main() == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{target.name}: left out, lacks its standard library: rustup target add {name}" for target in chosen
    ]
    assert len(chosen) == 3
    monkeypatch.setattr(sys, "argv", ["wheels.py", "--all", chosen[0].name])
    assert wheels.main() == 1


FOUND = {"name": "flask", "version": "0.1", "vulns": [{"id": "PYSEC-1"}]}
FINE = {"name": "six", "version": "1.17.0", "vulns": []}
SKIPPED = {"name": "wrapt", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("dependencies", "line", "well"),
    [
        ([FINE], "1 packages, no known vulnerability", True),
        ([FINE, FOUND], "flask 0.1: PYSEC-1", False),
        ([FINE, SKIPPED], "not audited: wrapt", False),
        ([SKIPPED, SKIPPED], "not audited, as the service of PyPI did not answer", False),
    ],
)
def test_an_audit_passes_only_if_everything_was_looked_up(
    dependencies: list[dict[str, Any]], line: str, well: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "pip-audit"
    tool.write_text(f"#!/bin/sh\necho '{json.dumps({'dependencies': dependencies})}'\n")
    tool.chmod(0o755)
    monkeypatch.setattr(audit, "PIP_AUDIT", tool)
    assert audit.packages(ROOT / "requirements-dev.txt") == (line, well)
