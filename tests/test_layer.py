"""The layer for AWS Lambda: what is in it, and a function that finds us in nothing else."""

from __future__ import annotations

import re
import stat
import sys
import zipfile
from pathlib import Path

import layer
import pytest
from catalogue_names import assert_complete
from lambda_runtime import environment
from launching import wheel

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="AWS Lambda is Linux")


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """The layer of the wheel that is tested."""
    path = tmp_path / "layers" / "layer.zip"
    layer.pack(wheel(), path)
    return path


def test_the_layer_is_the_wheel_below_python_and_anybody_may_read_it(packed: Path) -> None:
    with zipfile.ZipFile(packed) as archive, zipfile.ZipFile(wheel()) as ours:
        entries = archive.infolist()
        assert {entry.filename: entry.CRC for entry in entries} == {
            f"python/{entry.filename}": entry.CRC for entry in ours.infolist()
        }
    modes = {stat.S_IMODE(entry.external_attr >> 16) for entry in entries}
    assert modes == {0o644, 0o755}
    assert packed.stat().st_size < 750_000


def test_the_same_wheel_gives_the_same_bytes(packed: Path, tmp_path: Path) -> None:
    layer.pack(wheel(), tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == packed.read_bytes()


def test_a_function_reports_from_the_layer(packed: Path, tmp_path: Path) -> None:
    # The runtime has /opt/python on its path.
    opt = tmp_path / "opt"
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(opt)
    variables = {"DD_RUNTIME_METRICS_LAMBDA_HANDLER": "plain.echo", "PYTHONPATH": str(opt / "python")}
    with environment("runtime_metrics.aws_lambda.handler", tmp_path, variables) as running:
        answer = running.invoke(1)
        loaded = Path(f"/proc/{running.process.pid}/maps").read_text()
    assert (answer.kind, answer.body["event"]) == ("response", 1)
    assert_complete(answer.flush.values)
    extensions = set(re.findall(r"\S+/runtime_metrics/_core\S*\.so", loaded))
    assert extensions == {str(opt / "python" / "runtime_metrics" / "_core.abi3.so")}


def test_each_architecture_has_a_layer_or_a_line_that_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(layer, "ROOT", tmp_path)
    monkeypatch.setattr(layer, "WHEELS", tmp_path / "wheels")
    monkeypatch.setattr(layer, "LAYERS", tmp_path / "layers")
    assert layer.main() == 1
    assert capsys.readouterr().out.count("left out, 0 wheels in wheels/: make wheels\n") == 2
    (tmp_path / "wheels").mkdir()
    for machine in ("x86_64", "aarch64"):
        name = wheel().name.replace("x86_64", machine)
        (tmp_path / "wheels" / name).write_bytes(wheel().read_bytes())
    assert layer.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for line, architecture in zip(lines, ("x86_64", "arm64"), strict=True):
        assert re.fullmatch(
            rf"{architecture}: \d+ kB, \d+ kB unpacked: layers/runtime-metrics-lambda-{architecture}\.zip",
            line,
        )
