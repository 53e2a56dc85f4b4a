"""Other libraries, and what they do in environments that are described in words."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from serving import ROOT, SETTINGS

if TYPE_CHECKING:
    from collections.abc import Sequence

PEERS = Path(os.environ.get("RUNTIME_METRICS_PEERS", ROOT / ".peers"))

# The inode of the host's cgroup namespace: PROC_CGROUP_INIT_INO in include/linux/proc_ns.h.
HOST_NAMESPACE = 0xEFFFFFFB

CONTAINER = "0123456789abcdef" * 4
TASK = "0123456789abcdef" * 2 + "-1234567890"
UUID = "01234567-89ab-cdef-0123-456789abcdef"
MOUNT = "609 554 8:1 /docker/containers/{}/hostname /etc/hostname rw,relatime - ext4 /dev/sda1 rw\n"

# The files of /proc/self that a word in an environment stands for.
WORDS = {
    "container": {"cgroup": f"0::/system.slice/docker-{CONTAINER}.scope\n"},
    "task": {"cgroup": f"9:memory:/ecs/{TASK}\n0::/\n"},
    "uuid": {"cgroup": f"1:cpu:/garden/{UUID}\n"},
    "nested": {"cgroup": "0::/nested\n"},
    "memory": {"cgroup": "4:memory:/\n0::/\n"},
    "mounted": {"mountinfo": MOUNT.format(CONTAINER)},
}

# A mount namespace that hides parts of the machine: with an empty /var/run, and other cgroups.
UNSHARE = ["unshare", "--user", "--map-root-user", "--mount"]
HIDDEN_MACHINE = 'mount -t tmpfs none /var/run && mount --bind "$0" /sys/fs/cgroup && exec "$@"'
PROBE = ["sh", "-c", "mount --bind /dev/null /proc/$$/cgroup"]


@dataclass(frozen=True)
class Difference:
    """What we do, what another library does, and why they differ."""

    ours: str
    theirs: str
    reason: str


@dataclass(frozen=True)
class Line:
    """A line, parsed in the order of fields that all these libraries use."""

    name: str
    value: str
    type: str
    tags: frozenset[str]
    # What follows the tags: c:, e:, card:.
    origin: tuple[str, ...]
    pieces: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Line:
        """Parses a line."""
        match = re.fullmatch(r"([\w.]+):([\d.]+)\|([a-z]+)\|#([^|]+)((?:\|[^|]+)*)", text)
        assert match is not None, text
        tags, origin = match[4].split(","), match[5].split("|")[1:]
        head = f"{match[1]}:{match[2]}|{match[3]}"
        pieces = (head, *(f"#{tag}" for tag in sorted(tags)), *origin)
        return cls(match[1], match[2], match[3], frozenset(tags), tuple(origin), pieces)


def documented(heading: str) -> dict[str, Difference]:
    """The differences that docs/compatibility.md lists under a heading, by environment."""
    page = (ROOT / "docs" / "compatibility.md").read_text()
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    rows = [re.split(r"(?<!\\)\|", row)[1:-1] for row in re.findall(r"^\| `.*", section, re.MULTILINE)]
    cells = [[cell.strip().replace(r"\|", "|") for cell in row] for row in rows]
    found = {row[0].strip("`"): Difference(*(cell.replace("`", "") for cell in row[1:])) for row in cells}
    assert len(found) == len(rows), "an environment is listed twice"
    return found


def ask(question: str, environments: Sequence[dict[str, Any]], world: Sequence[str] = ()) -> list[Any]:
    """The answers of a library in each of the environments."""
    python = sys.executable if question.startswith("our") else str(PEERS / "bin" / "python")
    plain = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
    done = subprocess.run(
        [*world, python, str(ROOT / "tests" / "programs" / "answers.py"), question],
        input=json.dumps(environments),
        # ddtrace must not send telemetry about itself.
        env=plain | {"DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false"},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert len(answers) == len(environments) > 0
    return list(answers)


def environment(text: str) -> dict[str, Any]:
    """Parses the description of an environment: its variables, and what else exists there."""
    words = shlex.split(text)
    proc = {"cgroup": "0::/\n", "mountinfo": ""}
    for word in words:
        proc |= WORDS.get(word, {})
    return {
        "variables": dict(word.split("=", 1) for word in words if "=" in word),
        "socket": "socket" in words,
        "proc": proc,
    }


@cache
def hidden_machine(folder: Path, *, host: bool = False) -> tuple[str, ...]:
    """The start of a command that runs in such a namespace; skips the test where that is not permitted."""
    if host and os.stat("/proc/self/ns/cgroup").st_ino != HOST_NAMESPACE:
        pytest.skip("needs to run in the host's cgroup namespace")
    for name in ("nested", "memory"):
        (folder / name).mkdir(exist_ok=True)
    world = (*UNSHARE, *(() if host else ("--cgroup",)), "sh", "-c", HIDDEN_MACHINE, str(folder))
    try:
        permitted = subprocess.run([*world, *PROBE], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        permitted = False
    if not permitted:
        pytest.skip("needs permission to unshare the mounts")
    return world
