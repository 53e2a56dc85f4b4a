"""Every file of examples/deploy passes a linter of its kind, and docs/deploy describes it correctly."""

from __future__ import annotations

import errno
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from ports import reserved_udp_port

from runtime_metrics import _core

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from receiving import Flushes

ROOT = Path(__file__).parent.parent
LINTERS = ROOT / ".linters"
FILES = sorted((ROOT / "examples" / "deploy").glob("[!_]*"))
PAGES = sorted((ROOT / "docs" / "deploy").glob("*.md"))
CHECK = "runtime-metrics check"

# The variables of the Agent: a complete list, because no linter finds a misspelled one.
AGENTS_OWN = {
    "DD_API_KEY",
    "DD_DOGSTATSD_NON_LOCAL_TRAFFIC",
    "DD_DOGSTATSD_ORIGIN_DETECTION_CLIENT",
    "DD_HEALTH_PORT",
    "DD_SITE",
}


def complaints(program: str, *arguments: str | Path, given: str | None = None) -> str:
    """The output of a linter for a file that it rejects; for one that it accepts, nothing."""
    status, output = ran(program, *arguments, given=given)
    assert status == 0 or output, f"{program} ended with status {status}"
    return output if status else ""


def ran(program: str, *arguments: str | Path, given: str | None = None) -> tuple[int, str]:
    """The status of a linter and its output."""
    ours = LINTERS / "bin" / program
    command = [ours if ours.exists() else program, *arguments]
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout + done.stderr


def dockerfile(path: Path) -> str:
    return complaints("hadolint", path)


def compose(path: Path) -> str:
    return complaints("check-jsonschema", "--builtin-schema", "vendor.compose-spec", path)


def kubernetes(path: Path) -> str:
    return complaints("kubernetes-validate", "--strict", path)


def cloudformation(path: Path) -> str:
    return complaints("cfn-lint", path)


def cloud_run(path: Path) -> str:
    return complaints("check-jsonschema", "--schemafile", "-", path, given=json.dumps(cloud_run_service()))


def systemd(path: Path) -> str:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze on this machine")
    # It checks that the program exists, too.
    path.write_text(path.read_text().replace("/opt/shop/bin/uvicorn", sys.executable))
    # Its status is 0 even for an unknown key; for a good unit there is no output.
    return ran("systemd-analyze", "verify", "--man=no", path)[1]


def cloud_run_service() -> dict[str, Any]:
    """The JSON schema of a service, from the description of the API of Cloud Run."""
    (described,) = LINTERS.glob(
        "lib/python*/site-packages/googleapiclient/discovery_cache/documents/run.v1.json"
    )
    schemas: dict[str, Any] = json.loads(described.read_text())["schemas"]
    # In the description, annotations are any map; the accepted keys are listed in a text.
    annotations = schemas["ObjectMeta"]["properties"]["annotations"]
    taken = re.findall(
        r"`((?:run\.googleapis\.com|autoscaling\.knative\.dev)/\w[\w-]+)`", annotations["description"]
    )
    assert len(taken) > 20
    definitions = {name: json_schema(schema) for name, schema in schemas.items()}
    definitions["ObjectMeta"]["properties"]["annotations"]["propertyNames"] = {"enum": taken}
    service = definitions["Service"]
    service["required"] = ["apiVersion", "kind", "metadata", "spec"]
    service["properties"]["apiVersion"] = {"const": "serving.knative.dev/v1"}
    service["properties"]["kind"] = {"const": "Service"}
    return {"$defs": definitions, "$ref": "#/$defs/Service"}


def json_schema(described: dict[str, Any]) -> dict[str, Any]:
    """The same type for JSON Schema; an object has no other properties than those described."""
    schema = {key: described[key] for key in ("type", "enum") if described.get(key, "any") != "any"}
    if "$ref" in described:
        schema["$ref"] = f"#/$defs/{described['$ref']}"
    if "items" in described:
        schema["items"] = json_schema(described["items"])
    if "additionalProperties" in described:
        schema["additionalProperties"] = json_schema(described["additionalProperties"])
    if "properties" in described:
        schema["properties"] = {name: json_schema(of) for name, of in described["properties"].items()}
        schema["additionalProperties"] = False
    return schema


class Mistake(NamedTuple):
    """A mistake that the linter of the file must find, and a part of its complaint."""

    right: str
    wrong: str
    complaint: str


LINTED: dict[str, tuple[Callable[[Path], str], list[Mistake]]] = {
    "Dockerfile": (
        dockerfile,
        [
            Mistake("python:3.13-slim", "python", "DL3006"),
            Mistake("runtime-metrics~=0.1", "runtime-metrics", "DL3013"),
        ],
    ),
    "cloud-run.yaml": (
        cloud_run,
        [
            Mistake("startupProbe:", "startProbe:", "'startProbe' was unexpected"),
            Mistake('throttling: "false"', "throttling: false", "False is not of type 'string'"),
            Mistake("cpu-throttling:", "cpu-throtling:", "'run.googleapis.com/cpu-throtling' is not one of"),
            Mistake(
                "serving.knative.dev/v1", "run.googleapis.com/v2", "'serving.knative.dev/v1' was expected"
            ),
        ],
    ),
    "compose.yaml": (
        compose,
        [
            Mistake("depends_on:", "depend_on:", "'depend_on' was unexpected"),
            Mistake("- datadog-agent", "datadog-agent", "'datadog-agent' is not of type 'array'"),
        ],
    ),
    "ecs-ec2.yaml": (
        cloudformation,
        [
            Mistake("Protocol: udp", "Protocol: upd", "'upd' is not one of"),
            Mistake("SchedulingStrategy: DAEMON", "Strategy: DAEMON", "'Strategy' was unexpected"),
            Mistake("!Ref ShopTask", "!Ref Shoptask", "'Shoptask'"),
        ],
    ),
    "ecs-fargate.yaml": (
        cloudformation,
        [
            Mistake('Memory: "1024"', 'Memory: "256"', "Cpu '256' is not compatible with memory '256'"),
            Mistake("Condition: START", "Condition: STARTED", "'STARTED' is not one of"),
        ],
    ),
    "kubernetes-admission.yaml": (
        kubernetes,
        [Mistake('enabled: "true"', "enabled: true", "True is not of type 'string'")],
    ),
    "kubernetes-host-ip.yaml": (
        kubernetes,
        [Mistake("fieldPath: status.hostIP", "path: status.hostIP", "'fieldPath' is a required property")],
    ),
    "kubernetes-socket.yaml": (
        kubernetes,
        [
            Mistake("readOnly:", "readonly:", "'readonly' was unexpected"),
            Mistake("replicas: 2", "replicas: two", "'two' is not of type 'integer'"),
        ],
    ),
    "shop.service": (
        systemd,
        [
            Mistake("RestrictAddressFamilies=", "RestrictAddressFamily=", "'RestrictAddressFamily'"),
            Mistake("WorkingDirectory=/opt", "WorkingDirectory=opt", "WorkingDirectory"),
        ],
    ),
}


def test_every_file_has_a_linter() -> None:
    """The modules are checked by `make lint`."""
    assert [path.name for path in FILES if path.suffix != ".py"] == sorted(LINTED)


@pytest.mark.parametrize("name", LINTED)
def test_the_linter_accepts_the_file(name: str, tmp_path: Path) -> None:
    lint, _ = LINTED[name]
    assert lint(Path(shutil.copy(ROOT / "examples" / "deploy" / name, tmp_path))) == ""


@pytest.mark.parametrize(
    ("name", "mistake"), [(name, mistake) for name, (_, mistakes) in LINTED.items() for mistake in mistakes]
)
def test_the_linter_notices_a_mistake(name: str, mistake: Mistake, tmp_path: Path) -> None:
    lint, _ = LINTED[name]
    text = (ROOT / "examples" / "deploy" / name).read_text()
    assert mistake.right in text
    path = tmp_path / name
    path.write_text(text.replace(mistake.right, mistake.wrong, 1))
    assert mistake.complaint in lint(path)


def test_each_variable_is_one_that_we_or_the_agent_read() -> None:
    ours = {variable.name for variable in _core.variables()}
    used = {
        (name, path.name)
        for path in [*FILES, *PAGES]
        for name in re.findall(r"\b(?:DD|DATADOG)_[A-Z_]+", path.read_text())
    }
    assert not ours & AGENTS_OWN
    assert {name for name, _ in used} >= AGENTS_OWN
    assert sorted((name, where) for name, where in used if name not in ours | AGENTS_OWN) == []


def linked(page: Path) -> set[str]:
    """The files of examples/deploy that a page links."""
    return set(re.findall(r"\]\(\.\./\.\./examples/deploy/([^)]+)\)", page.read_text()))


def test_each_file_has_a_page_and_each_page_a_file() -> None:
    assert set.union(*map(linked, PAGES)) == {path.name for path in FILES}
    assert all(map(linked, PAGES))


def test_the_index_links_each_page() -> None:
    index = (ROOT / "docs" / "deploy" / "README.md").read_text()
    places = {path.name for path in PAGES} - {"README.md"}
    assert len(places) == 6
    assert set(re.findall(r"\]\(([\w-]+\.md)[)#]", index)) == places


def blocks() -> Iterator[tuple[Path, str]]:
    """Each block of code that a page shows."""
    for page in PAGES:
        for block in re.findall(r"```\w+\n(.*?)```", page.read_text(), re.DOTALL):
            yield page, block


def test_what_a_page_shows_is_in_a_file_that_it_links() -> None:
    shown = list(blocks())
    assert {page.name for page, _ in shown} == {page.name for page in PAGES} - {"README.md"}
    texts = {path.name: path.read_text() for path in FILES}
    assert [
        (page.name, block)
        for page, block in shown
        if not any(f"\n{block}" in texts[name] for name in linked(page))
    ] == []


def system(number: int) -> str:
    """How the standard library of Rust prints an error of the operating system."""
    return f"{os.strerror(number)} (os error {number})"


HERE = "connection refused (is an Agent listening there, in this container or on this host?)"
ELSEWHERE = "connection refused (is an Agent listening there, with DD_DOGSTATSD_NON_LOCAL_TRAFFIC=true?)"
UNKNOWN = "the name datadog-agent.invalid has not been resolved (is the name right?)"
MISSING = f"{system(errno.ENOENT)} (is the Agent running, and is its directory mounted here?)"
DENIED = f"{system(errno.EACCES)} (may user 1000 write to it?)"
FAMILY = system(errno.EAFNOSUPPORT)


def test_log_lines_quoted_in_pages_are_ours() -> None:
    # The others are provoked below.
    causes = (ROOT / "src" / "emitter" / "health.rs").read_text()
    assert '"is an Agent listening there, with DD_DOGSTATSD_NON_LOCAL_TRAFFIC=true?"' in causes
    assert '(may {} write to it?)"' in causes
    quoted = [
        line.strip()
        for page in PAGES
        for line in page.read_text().splitlines()
        if line.startswith("    sending to")
    ]
    failing = [line for line in quoted if " fails: " in line]
    shape = re.compile(
        r"sending to (?:udp://([\w.-]+):8125|unix:///var/run/datadog/dsd\.socket)"
        r" \((?:by default|from DD_AGENT_HOST|from DD_DOGSTATSD_URL)\) fails: (.*); will keep trying"
    )
    reasons = set()
    for line in failing:
        match = shape.fullmatch(line)
        assert match, line
        reasons.add(match[2].replace(f"the name {match[1]} ", "the name datadog-agent.invalid "))
    assert reasons == {HERE, ELSEWHERE, UNKNOWN, MISSING, DENIED, FAMILY}


def check(**environment: str) -> tuple[str, str, int]:
    """Runs the command; returns its output, its errors, and its exit status."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", *CHECK.replace("-", "_").split()],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.stdout, done.stderr, done.returncode


def test_check_prints_where_samples_are_sent(flushes: Flushes) -> None:
    output = check(DD_DOGSTATSD_URL=flushes.url)
    to = re.escape(f"{flushes.url} (from DD_DOGSTATSD_URL)")
    line = rf"runtime-metrics\[\d+\]: runtime metrics are sent every 10 s to {to} as service:\S+\nsent\n"
    assert re.fullmatch(line, output[0]), output
    assert output[1:] == ("", 0)
    assert len(flushes.rest()) >= 2


def test_check_prints_why_nothing_is_sent(tmp_path: Path) -> None:
    with reserved_udp_port() as port:
        for address, reason in (
            (f"udp://127.0.0.1:{port}", HERE),
            (f"unix://{tmp_path}/dsd.socket", MISSING),
            ("udp://datadog-agent.invalid:8125", UNKNOWN),
        ):
            line = f"sending to {address} (from DD_DOGSTATSD_URL) fails: {reason}; will keep trying"
            output, errors, status = check(DD_DOGSTATSD_URL=address)
            assert output.partition("]: ")[2] == f"{line}\nnot sent\n"
            assert (errors, status) == ("", 1)


def test_each_page_says_how_to_check() -> None:
    # On Cloud Run, no command can be run beside the application.
    assert [page.name for page in PAGES if CHECK not in page.read_text()] == ["cloud-run.md"]


class Metadata(BaseHTTPRequestHandler):
    """The part of EC2's metadata service that returns the address of an instance for a token."""

    def do_PUT(self) -> None:
        self.answer(
            self.path == "/latest/api/token" and "X-aws-ec2-metadata-token-ttl-seconds" in self.headers, "key"
        )

    def do_GET(self) -> None:
        known = self.headers["X-aws-ec2-metadata-token"] == "key"
        self.answer(known and self.path == "/latest/meta-data/local-ipv4", "10.0.3.17")

    def answer(self, accepted: bool, text: str) -> None:
        self.send_response(200 if accepted else 401)
        self.end_headers()
        self.wfile.write(text.encode() if accepted else b"")

    def log_message(self, *_: object) -> None:
        """Logs nothing."""


def test_the_address_of_an_instance_comes_from_its_metadata_service() -> None:
    address = runpy.run_path(str(ROOT / "examples" / "deploy" / "instance_address.py"))["address"]
    with ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as server:
        threading.Thread(target=server.serve_forever).start()
        base = f"http://127.0.0.1:{server.server_port}"
        try:
            assert address(f"{base}/latest") == "10.0.3.17"
            with pytest.raises(OSError, match="401"):
                address(f"{base}/other")
        finally:
            server.shutdown()


@pytest.mark.parametrize(("python", "found"), [("echo 10.0.3.17", "10.0.3.17"), ("exit 1", "")])
def test_the_command_on_ec2_starts_the_server_with_or_without_an_address(
    python: str, found: str, tmp_path: Path
) -> None:
    template = (ROOT / "examples" / "deploy" / "ecs-ec2.yaml").read_text()
    command = re.search(r"- sh\n +- -c\n +- >-\n((?: {14}.*\n)+)", template)
    assert command
    for name, line in (("python", python), ("uvicorn", 'echo "$DD_AGENT_HOST|uvicorn $*"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", " ".join(command[1].split())],
        env={"PATH": f"{tmp_path}:{os.defpath}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    started = re.search(
        r"^CMD (.*)$", (ROOT / "examples" / "deploy" / "Dockerfile").read_text(), re.MULTILINE
    )
    assert started
    assert done.stdout == f"{found}|{' '.join(json.loads(started[1]))}\n"


def test_every_file_that_the_image_copies_exists() -> None:
    copied = re.search(
        r"^COPY (.*) \./$", (ROOT / "examples" / "deploy" / "Dockerfile").read_text(), re.MULTILINE
    )
    assert copied
    sources = copied[1].split()
    assert len(sources) == 2
    assert [source for source in sources if not (ROOT / source).is_file()] == []
