"""Compared with other libraries: we send where ddtrace sends, and what datadogpy sends; Datadog's receiver takes it."""

from __future__ import annotations

import re
import shlex
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from catalogue_names import PREFIX, is_complete
from datadog_receiver import DatadogReceiver, Forwarded, arrived, forwarded, rejected
from peers import CONTAINER, PEERS, Line, ask, documented, environment, hidden_machine
from serving import need

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

# docs/compatibility.md explains the words. Nothing is sent: each process ends once it has answered.
ADDRESSES = [
    "",
    "DD_DOGSTATSD_URL=udp://127.0.0.2:9125",
    "DD_DOGSTATSD_URL=udp://127.0.0.2",
    "DD_DOGSTATSD_URL=UDP://127.0.0.2:9125",
    "DD_DOGSTATSD_URL=127.0.0.2:9125",
    "DD_DOGSTATSD_URL=127.0.0.2",
    "DD_DOGSTATSD_URL=localhost:9125",
    "DD_DOGSTATSD_URL=agent.invalid",
    "DD_DOGSTATSD_URL=udp://Agent.invalid:9125",
    "DD_DOGSTATSD_URL=udp://[::1]:9125",
    "DD_DOGSTATSD_URL=udp://[::1]",
    "DD_DOGSTATSD_URL=[::1]:9125",
    "DD_DOGSTATSD_URL=udp://::1",
    "DD_DOGSTATSD_URL=unix:///tmp/dsd.socket",
    "DD_DOGSTATSD_URL=UNIX:///tmp/dsd.socket",
    "DD_DOGSTATSD_URL=/tmp/dsd.socket",
    "DD_DOGSTATSD_URL='unix:///tmp/a b'",
    "DD_DOGSTATSD_URL='unix:///tmp/a?b#c'",
    "DD_DOGSTATSD_URL=unixgram:///tmp/dsd.socket",
    "DD_DOGSTATSD_URL=unixstream:///tmp/dsd.socket",
    "DD_DOGSTATSD_URL=unix://tmp/dsd.socket",
    "DD_DOGSTATSD_URL=unix:/tmp/dsd.socket",
    "DD_DOGSTATSD_URL=tmp/dsd.socket",
    "DD_DOGSTATSD_URL=unix://",
    r"DD_DOGSTATSD_URL='\\.\pipe\dsd'",
    "DD_DOGSTATSD_URL=udp://127.0.0.2:9125/",
    "DD_DOGSTATSD_URL=udp://127.0.0.2:9125/x",
    "DD_DOGSTATSD_URL=' udp://127.0.0.2:9125'",
    "DD_DOGSTATSD_URL='udp://127.0.0.2:9125 '",
    "DD_DOGSTATSD_URL=http://127.0.0.2:9125",
    "DD_DOGSTATSD_URL=http://127.0.0.2:9125 DD_AGENT_HOST=127.0.0.3",
    "DD_DOGSTATSD_URL=udp://",
    "DD_DOGSTATSD_URL=udp://:9125",
    "DD_DOGSTATSD_URL=udp://127.0.0.2:",
    "DD_DOGSTATSD_URL=udp://127.0.0.2:0",
    "DD_DOGSTATSD_URL=udp://127.0.0.2:65536",
    "DD_DOGSTATSD_URL=udp://127.0.0.2:port",
    "DD_DOGSTATSD_URL=",
    "DD_DOGSTATSD_URL= DD_AGENT_HOST=127.0.0.3",
    "DD_DOGSTATSD_URL=udp://127.0.0.2 DD_AGENT_HOST=127.0.0.3",
    "DD_DOGSTATSD_URL=udp://127.0.0.2 DD_DOGSTATSD_PORT=9125",
    "DD_DOGSTATSD_URL=udp://127.0.0.2:9125 DD_DOGSTATSD_PORT=9126",
    "DD_DOGSTATSD_URL=udp://localhost DD_AGENT_HOST=127.0.0.3",
    "DD_DOGSTATSD_URL=unix:///tmp/dsd.socket DD_AGENT_HOST=127.0.0.3 DD_DOGSTATSD_PORT=9125",
    "DD_DOGSTATSD_HOST=127.0.0.2",
    "DD_DOGSTATSD_HOST=127.0.0.2 DD_DOGSTATSD_PORT=9125",
    "DD_DOGSTATSD_HOST=127.0.0.2 DD_AGENT_PORT=8126",
    "DD_DOGSTATSD_HOST=127.0.0.2 DD_AGENT_HOST=127.0.0.3",
    "DD_DOGSTATSD_HOST=localhost DD_AGENT_HOST=127.0.0.3",
    "DD_DOGSTATSD_HOST= DD_AGENT_HOST=127.0.0.3",
    "DD_AGENT_HOST=127.0.0.2",
    "DD_AGENT_HOST=127.0.0.2 DD_DOGSTATSD_PORT=9125",
    "DD_AGENT_HOST=127.0.0.2 DD_AGENT_PORT=8126",
    "DD_AGENT_HOST=127.0.0.2 DD_AGENT_PORT=8126 DD_DOGSTATSD_PORT=9125",
    "DD_AGENT_HOST=agent.invalid",
    "DD_AGENT_HOST=::1",
    "DD_AGENT_HOST=[::1]",
    "DD_AGENT_HOST=fe80::1%lo",
    "DD_AGENT_HOST=127.0.0.2:9125",
    "DD_AGENT_HOST=http://127.0.0.2:8126",
    "DD_AGENT_HOST=unix:///tmp/dsd.socket",
    "DD_AGENT_HOST='127.0.0.2 '",
    "DD_AGENT_HOST=",
    "DD_DOGSTATSD_PORT=9125",
    "DD_DOGSTATSD_PORT=9125 DD_AGENT_PORT=8126",
    "DD_AGENT_PORT=9125",
    "DD_AGENT_PORT=",
    "DD_DOGSTATSD_PORT=",
    "DD_DOGSTATSD_PORT=0",
    "DD_DOGSTATSD_PORT=0 DD_AGENT_PORT=9126",
    "DD_DOGSTATSD_PORT=65536",
    "DD_DOGSTATSD_PORT=-1",
    "DD_DOGSTATSD_PORT=+9125",
    "DD_DOGSTATSD_PORT=' 9125'",
    "DD_DOGSTATSD_PORT=9_125",
    "DD_DOGSTATSD_PORT=09125",
    "DD_DOGSTATSD_PORT=9125.0",
    "DD_DOGSTATSD_PORT=port",
    "DD_DOGSTATSD_PORT=port DD_AGENT_HOST=127.0.0.2",
    "DD_TRACE_AGENT_URL=http://127.0.0.2:8126",
    "DD_TRACE_AGENT_URL=unix:///tmp/apm.socket",
    "DD_TRACE_AGENT_HOSTNAME=127.0.0.2 DD_TRACE_AGENT_PORT=8126",
    "DD_HOSTNAME=127.0.0.2",
    "socket",
    "DD_AGENT_HOST=127.0.0.2 socket",
    "DD_AGENT_HOST= socket",
    "DD_AGENT_HOST='a b' socket",
    "DD_AGENT_PORT=8126 socket",
    "DD_DOGSTATSD_HOST=127.0.0.2 socket",
    "DD_DOGSTATSD_PORT=9125 socket",
    "DD_DOGSTATSD_PORT=0 socket",
    "DD_DOGSTATSD_PORT= socket",
    "DD_DOGSTATSD_PORT=port socket",
    "DD_DOGSTATSD_URL=udp://127.0.0.2 socket",
    "DD_DOGSTATSD_URL=unix:///tmp/dsd.socket socket",
    "DD_DOGSTATSD_URL=http://127.0.0.2:9125 socket",
    "DD_DOGSTATSD_URL= socket",
    "DD_TRACE_AGENT_URL=http://127.0.0.2:8126 socket",
    "DD_TRACE_AGENT_HOSTNAME=127.0.0.2 socket",
]

LINES = [
    "DD_SERVICE=web",
    "DD_SERVICE=web DD_ENV=prod DD_VERSION=1.4",
    "DD_SERVICE=web DATADOG_TAGS=team:core,canary",
    "DD_SERVICE='a web|b,c#d'",
    "DD_SERVICE=wéb/日本",
    "DD_SERVICE=web:",
    "DD_ENV=prod",
    "DD_SERVICE=web DD_TAGS=team:core",
    "DD_SERVICE=web DATADOG_TAGS=service:other",
    "DD_SERVICE=web DATADOG_TAGS=__team:core,_a:b,日本:c",
    "DD_SERVICE=web DD_ENTITY_ID=pod-uid",
    "DD_SERVICE=web DD_ENTITY_ID='a pod|b'",
    "DD_SERVICE=web DD_ENTITY_ID=",
    "DD_SERVICE=web DD_EXTERNAL_ENV=it-false,cn-app,pu-1234",
    "DD_SERVICE=web DD_EXTERNAL_ENV='it-false|cn-app'",
    "DD_SERVICE=web DD_EXTERNAL_ENV=it-false,cn-App",
    "DD_SERVICE=web DD_EXTERNAL_ENV=",
    "DD_SERVICE=web DD_CARDINALITY=none",
    "DD_SERVICE=web DD_CARDINALITY=low",
    "DD_SERVICE=web DD_CARDINALITY=orchestrator",
    "DD_SERVICE=web DATADOG_CARDINALITY=high",
    "DD_SERVICE=web DD_CARDINALITY=low DATADOG_CARDINALITY=high",
    "DD_SERVICE=web DD_CARDINALITY=low DATADOG_CARDINALITY=",
    "DD_SERVICE=web DD_CARDINALITY=LOW",
    "DD_SERVICE=web DD_CARDINALITY=some",
    "DD_SERVICE=web DD_CARDINALITY=",
    "DD_SERVICE=web DD_ORIGIN_DETECTION_ENABLED=true",
    "DD_SERVICE=web DD_ORIGIN_DETECTION_ENABLED=false",
    "DD_SERVICE=web DD_ORIGIN_DETECTION_ENABLED=0",
    "DD_SERVICE=web DD_ORIGIN_DETECTION_ENABLED=no",
    "DD_SERVICE=web DD_ORIGIN_DETECTION_ENABLED=",
    "DD_SERVICE=web DD_ORIGIN_DETECTION_ENABLED=false DD_ENTITY_ID=pod-uid",
    "DD_SERVICE=web DD_ORIGIN_DETECTION_ENABLED=false DD_EXTERNAL_ENV=it-false DD_CARDINALITY=low",
    "DD_SERVICE=web DD_ENTITY_ID=pod-uid DD_EXTERNAL_ENV=it-false DD_CARDINALITY=low",
    "DD_SERVICE=web container",
    "DD_SERVICE=web task",
    "DD_SERVICE=web uuid",
    "DD_SERVICE=web nested",
    "DD_SERVICE=web memory",
    "DD_SERVICE=web mounted",
    "DD_SERVICE=web DD_ENTITY_ID=pod-uid nested",
    "DD_SERVICE=web host",
    "DD_SERVICE=web container host",
    "DD_SERVICE=web task host",
    "DD_SERVICE=web uuid host",
    "DD_SERVICE=web nested host",
    "DD_SERVICE=web mounted host",
    "DD_SERVICE=web DD_ENTITY_ID=pod-uid DD_EXTERNAL_ENV=it-false DD_CARDINALITY=low host",
]

GAUGE = f"{PREFIX}mem.rss"
INODE = re.compile("in-[0-9]+")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that is mounted as /sys/fs/cgroup."""
    return tmp_path_factory.mktemp("cgroup")


def environments_with(texts: list[str], *, having: str = "", lacking: str = "") -> list[str]:
    """The environments that have a word and lack another."""
    split = {text: text.split() for text in texts}
    return [text for text in texts if (not having or having in split[text]) and lacking not in split[text]]


def listed(heading: str, texts: list[str]) -> dict[str, tuple[str, str]]:
    """The differences that the documents list for these environments."""
    rows = documented(heading)
    return {text: (rows[text].ours, rows[text].theirs) for text in texts if text in rows}


def addresses_that_differ(texts: list[str], world: Sequence[str] = ()) -> dict[str, tuple[str, str]]:
    """Where we send and where ddtrace does, if the addresses differ."""
    need("ddtrace", among=PEERS)
    environments = [environment(text) | {"proc": {}} for text in texts]
    answers = [ask(question, environments, world) for question in ("our address", "ddtrace's address")]
    pairs = dict(zip(texts, zip(*answers, strict=True), strict=True))
    return {text: (ours, theirs) for text, (ours, theirs) in pairs.items() if ours != theirs}


def test_we_send_where_ddtrace_sends() -> None:
    texts = environments_with(ADDRESSES, lacking="socket")
    assert addresses_that_differ(texts) == listed("Where ddtrace sends", texts)


def test_we_send_where_ddtrace_sends_beside_the_socket_of_an_agent(folder: Path) -> None:
    texts = environments_with(ADDRESSES, having="socket")
    assert addresses_that_differ(texts, hidden_machine(folder)) == listed("Where ddtrace sends", texts)


def apart(ours: Line, theirs: Line) -> tuple[str, str]:
    """What only we send and what only they do; the rest is the same and in the same order."""
    common = [piece for piece in ours.pieces if piece in theirs.pieces]
    assert common == [piece for piece in theirs.pieces if piece in ours.pieces]
    only = ([piece for piece in line.pieces if piece not in common] for line in (ours, theirs))
    our_text, their_text = (INODE.sub("in-<inode>", " ".join(pieces)) for pieces in only)
    return our_text, their_text


def lines_that_differ(texts: list[str], world: Sequence[str]) -> dict[str, tuple[str, str]]:
    """What only we send and what only datadogpy does, if anything."""
    need("datadog", among=PEERS)
    environments = [environment(text) for text in texts]
    flushes = ask("our lines", environments, world)
    ours = [Line.of(line) for lines in flushes for line in lines if line.startswith(f"{GAUGE}:")]
    for line, asked in zip(ours, environments, strict=True):
        asked["gauges"] = [(line.name, int(line.value))]
        # datadogpy cannot know these tags.
        asked["tags"] = [tag for tag in sorted(line.tags) if tag.startswith(("lang", "runtime-id:"))]
        assert len(asked["tags"]) == 4, line
    theirs = [Line.of(line) for (line,) in ask("datadogpy's lines", environments, world)]
    pairs = dict(zip(texts, map(apart, ours, theirs), strict=True))
    return {text: pair for text, pair in pairs.items() if any(pair)}


def test_we_send_what_datadogpy_sends(folder: Path) -> None:
    texts = environments_with(LINES, lacking="host")
    assert lines_that_differ(texts, hidden_machine(folder)) == listed("What datadogpy sends", texts)


def test_we_send_what_datadogpy_sends_in_the_cgroup_namespace_of_the_host(folder: Path) -> None:
    texts = environments_with(LINES, having="host")
    assert lines_that_differ(texts, hidden_machine(folder, host=True)) == listed(
        "What datadogpy sends", texts
    )


def test_the_entity_id_is_the_first_tag() -> None:
    text = "DD_SERVICE=web DD_ENV=prod DD_VERSION=1.4 DD_TAGS=a:b DATADOG_TAGS=c:d DD_ENTITY_ID=pod-uid"
    ((line, *_),) = ask("our lines", [environment(text) | {"proc": {}}])
    tags = line.split("|#")[1].split(",")
    assert tags[:4] == ["dd.internal.entity_id:pod-uid", "service:web", "env:prod", "version:1.4"]


COMMANDS = [
    "gunicorn shop.wsgi:application",
    "gunicorn --chdir . shop.wsgi:application",
    "gunicorn --config gunicorn.conf.py",
    "uvicorn --workers 2 shop.main:app",
    "celery -A shop worker",
    "flask --app shop run",
    "rq worker high",
    "python shop/main.py",
    "python manage.py runserver",
]


def test_the_services_that_we_and_ddtrace_infer_differ_as_listed(tmp_path: Path) -> None:
    """In the folder of a company's project, where settings name no service."""
    folder = tmp_path / "project"
    (folder / "shop").mkdir(parents=True)
    for name in ("manage.py", "gunicorn.conf.py", "shop/__init__.py", "shop/main.py", "shop/wsgi.py"):
        (folder / name).touch()
    commands = [shlex.split(text) for text in COMMANDS]
    environments = [
        {
            "variables": {},
            "folder": str(folder),
            "command": command
            if command[0] == "python"
            else ["python", f"/usr/bin/{command[0]}", *command[1:]],
        }
        for command in commands
    ]
    pairs = zip(ask("our service", environments), ask("ddtrace's service", environments), strict=True)
    found = {text: pair for text, pair in zip(COMMANDS, pairs, strict=True) if pair[0] != pair[1]}
    rows = documented("How ddtrace names the service")
    assert found == {text: (row.ours, row.theirs) for text, row in rows.items()}


@pytest.mark.parametrize(
    ("heading", "texts", "number"),
    [("Where ddtrace sends", ADDRESSES, 90), ("What datadogpy sends", LINES, 40)],
    ids=["ddtrace", "datadogpy"],
)
def test_every_difference_that_is_listed_is_tested_and_has_a_reason(
    heading: str, texts: list[str], number: int
) -> None:
    assert len(set(texts)) == len(texts) >= number
    rows = documented(heading)
    assert set(rows) - set(texts) == set()
    assert [text for text, row in rows.items() if not row.reason.endswith(".")] == []


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DatadogReceiver]:
    """Datadog's receiver."""
    receiving = DatadogReceiver(tmp_path_factory.mktemp("receiver"))
    yield receiving
    receiving.stop()


# Every field that a line can have.
EVERYTHING = (
    "DD_ENV=prod DD_VERSION=1.4 DD_TAGS=team:core,canary"
    " DD_ENTITY_ID=pod-uid DD_EXTERNAL_ENV=it-false,cn-app DD_CARDINALITY=low"
)
TYPES = {"gauge": "g", "distribution": "d"}
# The tags that this receiver adds.
ORIGIN = {"origin:azurespringapp", "dd.origin:azurespringapp"}


@pytest.fixture(scope="module")
def receiver_log(receiver: DatadogReceiver, folder: Path) -> str:
    """The log of the receiver after a flush of each type from outside and inside of containers."""

    def send(word: str, world: Sequence[str] = ()) -> None:
        senders = [
            environment(f"DD_DOGSTATSD_URL={receiver.url} DD_SERVICE={kind}-{word} {EVERYTHING} {word}")
            | {"wire_type": kind}
            for kind in TYPES
        ]
        outside: dict[str, object] = {} if world else {"proc": {}}
        assert ask("our flush", [sender | outside for sender in senders], world) == [True, True]

    send("outside")
    # Where this is not permitted, the tests of it are skipped as well.
    with suppress(pytest.skip.Exception):
        world = hidden_machine(folder)
        send("container", world)
        send("nested", world)
    receiver.send("end.of.gauges:1|g\nend.of.distributions:1|d\n")
    receiver.until('Metric { metric: "end.of.gauges"', 'Sketch { metric: "end.of.distributions"')
    return receiver.log


def taken_lines(receiver_log: str, service: str) -> list[Line]:
    """The lines of a flush that arrived and were forwarded unchanged."""
    lines = arrived(receiver_log, service)
    assert is_complete(line.name.removeprefix(PREFIX) for line in lines)
    assert forwarded(receiver_log, service) == {
        line.name: Forwarded(float(line.value), line.type, line.tags | ORIGIN) for line in lines
    }
    return lines


@pytest.mark.parametrize("kind", TYPES)
def test_datadogs_receiver_forwards_every_line(receiver_log: str, kind: str) -> None:
    lines = taken_lines(receiver_log, f"{kind}-outside")
    assert {line.type for line in lines} == {TYPES[kind]}
    assert {line.origin[-2:] for line in lines} == {("e:it-false,cn-app", "card:low")}
    assert [line.name for line in lines if "dd.internal.entity_id:pod-uid" not in line.tags] == []


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("word", ["container", "nested"])
def test_datadogs_receiver_forwards_every_line_from_a_container(
    receiver_log: str, folder: Path, kind: str, word: str
) -> None:
    hidden_machine(folder)
    container = {"container": CONTAINER, "nested": f"in-{(folder / 'nested').stat().st_ino}"}[word]
    lines = taken_lines(receiver_log, f"{kind}-{word}")
    assert {line.origin for line in lines} == {(f"c:{container}", "e:it-false,cn-app", "card:low")}


def test_datadogs_receiver_rejects_nothing_and_gets_no_long_datagram(receiver_log: str) -> None:
    assert rejected(receiver_log) == []
    sizes = [int(size) for size in re.findall(r"Received packet: (\d+) bytes", receiver_log)]
    assert len(sizes) > 8
    assert max(sizes) <= 1432


@pytest.mark.parametrize(
    ("pattern", "malformed"),
    [
        (r":[0-9.]+\|", ":many|"),
        (r"\|[gd]\|", "|q|"),
        (r"\|[gd]\|", "|ms|"),
        (r":.*", ""),
        (r"\|#", "|#" + "".join(f"tag{number}," for number in range(100))),
        ("$", "|Tomorrow"),
    ],
    ids=["value", "type", "unsupported type", "no value", "too many tags", "time"],
)
def test_datadogs_receiver_rejects_a_malformed_line(
    receiver: DatadogReceiver, pattern: str, malformed: str
) -> None:
    ((line, *_),) = ask("our lines", [environment(f"DD_SERVICE=web {EVERYTHING}") | {"proc": {}}])
    assert not receiver.rejects(line)
    bad = re.sub(pattern, malformed, line, count=1)
    assert bad != line
    assert receiver.rejects(bad)


def test_datadogs_receiver_accepts_the_lines_of_a_program_with_too_many_tags(
    receiver: DatadogReceiver,
) -> None:
    variables = {
        "DD_TAGS": ",".join(f"tag{number}:x" for number in range(150)),
        # These lines have the most tags of their own.
        "DD_RUNTIME_METRICS_CLIENT_TELEMETRY": "true",
    }
    (lines,) = ask("our lines", [environment("DD_SERVICE=web") | {"variables": variables, "proc": {}}])
    counts = {line.partition("|#")[2].partition("|")[0].count(",") + 1 for line in lines}
    assert counts == {97, 100}
    assert [line for line in lines if receiver.rejects(line)] == []
