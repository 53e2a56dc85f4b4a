"""examples/lambda: the function runs on this machine by one command, and linters of their kinds accept its files."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from catalogue_names import PREFIX, is_complete
from lambda_runtime import LAMBDA, PYTHON
from serving import ROOT, need
from test_deploy import AGENTS_OWN, LINTERS, Mistake, cloudformation, dockerfile

from runtime_metrics import _core

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="AWS Lambda is Linux")

EXAMPLE = ROOT / "examples" / "lambda"
FILES = [path for path in sorted(EXAMPLE.glob("[!_.]*")) if path.is_file()]

# The variables of the extension: no linter finds a misspelled one.
EXTENSIONS_OWN = AGENTS_OWN | {"DD_API_KEY_SECRET_ARN"}

LINTED: dict[str, tuple[Callable[[Path], str], list[Mistake]]] = {
    "Dockerfile": (
        dockerfile,
        [
            Mistake("lambda/python:3.13", "lambda/python", "DL3006"),
            Mistake("runtime-metrics~=0.1", "runtime-metrics", "DL3013"),
        ],
    ),
    "template.yaml": (
        cloudformation,
        [
            Mistake("Handler: function", "Handlr: function", "'Handlr' was unexpected"),
            Mistake("MemorySize: 256", "MemorySize: 64", "64 is less than the minimum of 128"),
            Mistake("Environment:", "Environments:", "'Environments' was unexpected"),
        ],
    ),
}


def test_the_function_runs_on_this_machine_by_one_command() -> None:
    need("awslambdaric", among=LAMBDA)
    command: list[str | Path] = [PYTHON, EXAMPLE / "invoke.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    orders = done.stdout.strip().split("\n\n")
    assert len(orders) == 3
    for number, order in enumerate(orders):
        *lines, answer = order.splitlines()
        assert answer == 'response: {"statusCode": 200}'
        names = Counter(line.partition(":")[0] for line in lines)
        assert names.pop("coffee_house.order_value") == 1
        assert is_complete(name.removeprefix(PREFIX) for name in names.elements())
        assert lines[1].count("cold_start:true" if number == 0 else "cold_start:false") == 1
    assert done.stderr == ""


def test_a_missing_handler_is_reported() -> None:
    need("awslambdaric", among=LAMBDA)
    command: list[str | Path] = [PYTHON, EXAMPLE / "invoke.py", "function.nothing"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "Runtime.HandlerNotFound" in done.stdout


@pytest.mark.parametrize("name", LINTED)
def test_the_linter_accepts_the_file(name: str, tmp_path: Path) -> None:
    lint, _ = LINTED[name]
    assert lint(Path(shutil.copy(EXAMPLE / name, tmp_path))) == ""


@pytest.mark.parametrize(
    ("name", "mistake"), [(name, mistake) for name, (_, mistakes) in LINTED.items() for mistake in mistakes]
)
def test_the_linter_notices_a_mistake(name: str, mistake: Mistake, tmp_path: Path) -> None:
    lint, _ = LINTED[name]
    text = (EXAMPLE / name).read_text()
    assert mistake.right in text
    path = tmp_path / name
    path.write_text(text.replace(mistake.right, mistake.wrong, 1))
    assert mistake.complaint in lint(path)


def serverless() -> dict[str, Any]:
    """The file for the Serverless Framework, for which there is no linter."""
    program = "import json, sys, yaml; json.dump(yaml.safe_load(sys.stdin), sys.stdout)"
    text = (EXAMPLE / "serverless.yml").read_text()
    command: list[str | Path] = [LINTERS / "bin" / "python", "-c", program]
    read = subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout
    loaded: dict[str, Any] = json.loads(read)
    return loaded


def test_the_file_for_serverless_matches_that_for_sam() -> None:
    service = serverless()
    provider = service["provider"]
    assert service.keys() == {"service", "frameworkVersion", "plugins", "provider", "layers", "functions"}
    assert provider.keys() == {
        *("name", "runtime", "region", "memorySize", "timeout", "environment", "layers", "iam")
    }
    template = (EXAMPLE / "template.yaml").read_text()
    handlers = [function["handler"] for function in service["functions"].values()]
    assert re.findall("Handler: (.*)", template) == handlers
    assert handlers == ["function.handler", "runtime_metrics.aws_lambda.handler"]
    assert [function.get("environment") for function in service["functions"].values()] == [
        None,
        {"DD_RUNTIME_METRICS_LAMBDA_HANDLER": "function.handler"},
    ]
    assert set(re.findall("Runtime: (.*)", template)) == {provider["runtime"]}
    (architectures,) = re.findall(r"Architectures: \[(.*)\]", template)
    (runtimes,) = re.findall(r"Runtimes: \[(.*)\]", template)
    (artifact,) = re.findall(r"ContentUri: (.*zip)", template)
    assert service["layers"] == {
        "runtimeMetrics": {
            "package": {"artifact": artifact},
            "compatibleArchitectures": architectures.split(", "),
            "compatibleRuntimes": runtimes.split(", "),
        }
    }
    # A function's layers replace those of the provider, so it repeats the extension's.
    (layer,) = provider["layers"]
    assert [function.get("layers") for function in service["functions"].values()] == [
        None,
        [{"Ref": "RuntimeMetricsLambdaLayer"}, layer],
    ]
    assert template.count("- !Ref RuntimeMetrics\n") == 1
    layers = {found.rpartition("layer:")[2] for found in re.findall("arn:.*Datadog-Extension:.*", template)}
    assert layers == {layer.rpartition("layer:")[2]}
    image = re.search("lambda-extension:([0-9]+)", (EXAMPLE / "Dockerfile").read_text())
    assert image is not None
    assert layer.endswith(f":{image[1]}")


def test_each_variable_is_one_that_we_or_the_extension_read() -> None:
    ours = {variable.name for variable in _core.variables()}
    used = {name for path in FILES for name in re.findall(r"\bDD_[A-Z_]+", path.read_text())}
    assert {"DD_RUNTIME_METRICS_LAMBDA_HANDLER", "DD_API_KEY_SECRET_ARN"} <= used
    assert used - ours - EXTENSIONS_OWN == set()


def test_the_page_links_every_file() -> None:
    page = (EXAMPLE / "README.md").read_text()
    linked = set(re.findall(r"\]\(([\w.]+)\)", page))
    assert linked == {path.name for path in FILES} - {"README.md"}
