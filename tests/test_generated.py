"""Files that derive from the core's tables are up to date, and the code in the documents runs."""

from __future__ import annotations

import ast
import inspect
import re
import runpy
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from catalogue_names import ALL_NAMES, CATALOGUE, PREFIX, is_default
from launching import VERSIONS

from runtime_metrics import _core

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import RunProgram
    from receiving import Flushes

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
]
GENERATE = "run `make generate`"
STUB = ROOT / "python" / "runtime_metrics" / "_core.pyi"


def test_generated_files_are_up_to_date() -> None:
    generated = runpy.run_path(str(ROOT / "docs" / "generate.py"))["generated"]()
    assert len(generated) == 6
    for path, text in generated.items():
        assert path.read_text() == text, f"{path.name}: {GENERATE}"


def test_the_pages_name_every_metric_and_every_variable() -> None:
    metrics = (ROOT / "docs" / "metrics.md").read_text()
    readme = (ROOT / "README.md").read_text()
    of_every_process = [m.name for m in CATALOGUE if is_default(m) and m.name.startswith(PREFIX)]
    assert of_every_process
    assert [name for name in ALL_NAMES if f"### {name}\n" not in metrics] == [], GENERATE
    listed = re.findall(r"^\| `(runtime\.python\.[^`]+)` \|", readme, re.MULTILINE)
    assert listed == of_every_process, (
        f"{GENERATE}; README lists what the default level sends, which is what people pay for"
    )
    assert [name for name in _core.client_telemetry() if f"| `{name}` |" not in metrics] == [], GENERATE
    configuration = (ROOT / "docs" / "configuration.md").read_text()
    variables = [variable.name for variable in _core.variables()]
    assert len(variables) > 20
    assert [name for name in variables if f"| `{name}` |" not in configuration] == [], GENERATE


def documented(stub: ast.Module) -> Iterator[tuple[str, str]]:
    """The stub's docstrings by dotted name."""
    for node in stub.body:
        if isinstance(node, ast.ClassDef) and "type_check_only" in map(ast.unparse, node.decorator_list):
            continue
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name, ast.get_docstring(node) or ""
        if isinstance(node, ast.ClassDef):
            for member in node.body:
                if isinstance(member, ast.FunctionDef):
                    yield f"{node.name}.{member.name}", ast.get_docstring(member) or ""


def test_docstrings_match_the_stub() -> None:
    stub = dict(documented(ast.parse(STUB.read_text())))
    assert {"enable", "disable", "flush", "snapshot", "Metric.name"} <= stub.keys()
    for name, text in stub.items():
        found: object = _core
        for part in name.split("."):
            found = inspect.getattr_static(found, part)
        assert text, f"{name} has no docstring in the stub"
        assert inspect.cleandoc(getattr(found, "__doc__", None) or "") == text, name


def code_blocks() -> Iterator[tuple[str, str]]:
    """Every block of Python in the documents, with its place."""
    for document in DOCUMENTS:
        text = document.read_text()
        for number, block in enumerate(re.findall(r"```python\n(.*?)```", text, re.DOTALL), start=1):
            yield f"{document.name} {number}", block


@pytest.mark.parametrize("block", [pytest.param(block, id=where) for where, block in code_blocks()])
def test_every_block_of_python_runs(run_program: RunProgram, flushes: Flushes, block: str) -> None:
    is_function = "def handler(event, context)" in block
    # The runtime would call it.
    call = "handler({}, None)\n" if is_function else ""
    run_program(
        block.replace("udp://127.0.0.1:8125", flushes.url) + call,
        AWS_LAMBDA_FUNCTION_NAME="coffee" if is_function else "",
        DD_DOGSTATSD_URL=flushes.url,
    )
    assert any(datagram.startswith(b"runtime.python.") for datagram in flushes.datagrams())


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        name
        for document in DOCUMENTS
        for name in re.findall(r"(?:`|^    )make ([a-z]+)", document.read_text(), re.MULTILINE)
    }
    assert {"demo", "test"} <= named <= targets


def test_every_link_between_files_works() -> None:
    links = [
        (document, link)
        for document in DOCUMENTS
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text())
    ]
    assert len(links) > 3
    assert [(document.name, link) for document, link in links if not (document.parent / link).exists()] == []


def test_a_release_has_absolute_links_and_the_urls_of_the_project(tmp_path: Path) -> None:
    manifests = ("pyproject.toml", "autostart/pyproject.toml")
    (tmp_path / "autostart").mkdir()
    for name in ("README.md", "Cargo.toml", *manifests):
        (tmp_path / name).write_text((ROOT / name).read_text())
    links = re.compile(r"\]\(([^)]+)\)")
    before = links.findall((ROOT / "README.md").read_text())
    runpy.run_path(str(ROOT / "docs" / "release.py"))["prepare"](tmp_path, "https://example.org/ours")
    files = f"https://example.org/ours/blob/v{_core.__version__}"
    after = links.findall((tmp_path / "README.md").read_text())
    assert after == [link if "://" in link else f"{files}/{link}" for link in before]
    assert f"{files}/docs/launcher.md" in after
    tomllib = pytest.importorskip("tomllib")
    for name in manifests:
        project = tomllib.loads((tmp_path / name).read_text())["project"]
        assert project.pop("urls")["Repository"] == "https://example.org/ours"
        assert project == tomllib.loads((ROOT / name).read_text())["project"]


def test_the_metadata_claim_what_is_built_and_tested() -> None:
    tomllib = pytest.importorskip("tomllib")
    for name in ("pyproject.toml", "autostart/pyproject.toml"):
        claimed = tomllib.loads((ROOT / name).read_text())["project"]["classifiers"]
        prefix = "Programming Language :: Python :: "
        assert [it for it in claimed if re.fullmatch(rf"{prefix}3\.\d+", it)] == [
            prefix + v for v in VERSIONS
        ]
        assert [it for it in claimed if it.startswith("Operating")] == ["Operating System :: POSIX :: Linux"]


# The others are modules for servers; tests/test_servers.py runs them.
PROGRAMS = [path for path in sorted((ROOT / "examples").glob("*.py")) if "__main__" in path.read_text()]


@pytest.mark.parametrize("example", PROGRAMS, ids=lambda path: path.name)
def test_every_example_runs_and_is_measured(example: Path, flushes: Flushes) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", example],
        env={"DD_DOGSTATSD_URL": flushes.url},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, ""), textwrap.shorten(done.stderr, 500)
    assert flushes.next().values
