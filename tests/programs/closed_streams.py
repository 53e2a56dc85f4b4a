"""A program without standard streams, as some service managers start them and as some daemons end up.

It appends to the file that it is given, a line of JSON for each time that it has sent its metrics: what numbers 0 to 2
are, the error of writing to each, and how many sockets it has. Only then it opens that file.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from typing import Any

from runtime_metrics import RuntimeMetrics

SECRET = "customer 4711"
STREAMS = range(3)
PATH, *MODES = sys.argv[1:]
checked: list[dict[str, Any]] = []


def main() -> None:
    """Sends at first, then over a new connection, then in a forked child."""
    if "close" in MODES:
        os.closerange(0, 3)
    if "enable" in MODES:
        RuntimeMetrics.enable()
    check("first")
    # As programs do that turn into daemons.
    os.closerange(3, 256)
    check("reconnected")
    child = os.fork()
    if child == 0:
        checked.clear()
        check("forked")
        report()
        os._exit(0)
    os.waitpid(child, 0)
    report()


def check(when: str) -> None:
    """Sends, then writes to each number."""
    sent = RuntimeMetrics.flush()
    links = [link(number) for number in range(256)]
    checked.append(
        {
            "when": when,
            "sent": sent,
            "streams": [links[number] for number in STREAMS],
            "errors": [write(number) for number in STREAMS],
            "printed": printed(),
            "sockets": sum(name is not None and name.startswith("socket:") for name in links),
        }
    )


def link(number: int) -> str | None:
    """What a descriptor refers to."""
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except FileNotFoundError:
        return None


def write(number: int) -> str | None:
    """Writes to a descriptor; the name of the error."""
    try:
        os.write(number, SECRET.encode())
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return None


def printed() -> str | None:
    """Prints; the name of the error. Python knows no stream that was closed before its start, and prints nothing."""
    if sys.stdout is None:
        return "EBADF"
    try:
        print(SECRET, flush=True)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return None


def report() -> None:
    """Appends what was found."""
    with open(PATH, "a") as file:
        file.writelines(f"{json.dumps(found)}\n" for found in checked)


main()
