"""Handlers that know nothing of metrics."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


def echo(event: Any, context: Any) -> Any:
    """Returns the event."""
    return {"event": event, "id": context.aws_request_id}


def fail(event: Any, context: Any) -> Any:
    """Raises the exception that the event names, a few frames down."""
    return deeper(event)


def deeper(event: str) -> Any:
    """Raises."""
    raise {"value": ValueError, "system": SystemError, "key": KeyError}[event](f"no {event}")


def leave(event: Any, context: Any) -> None:
    """Ends the process."""
    sys.exit(3)


def unprintable(event: Any, context: Any) -> Any:
    """Returns a value that JSON cannot represent."""
    return {1, 2}


def spin(event: float, context: Any) -> Any:
    """Uses so many seconds of CPU time in user mode, and returns the time that it took."""
    began, used = time.perf_counter(), time.process_time()
    while time.process_time() - used < event:
        sum(range(20_000))
    return {"seconds": time.perf_counter() - began, "cpu": time.process_time() - used}


def doze(event: float, context: Any) -> None:
    """Sleeps so many seconds."""
    time.sleep(event)


def run(event: str, context: Any) -> str:
    """Runs a program in a separate process, and returns its output."""
    return subprocess.run([sys.executable, "-c", event], capture_output=True, text=True, check=True).stdout


def descriptors(event: Any, context: Any) -> list[str]:
    """Which sockets are open."""
    return [name for name in map(target, os.listdir("/proc/self/fd")) if name.startswith("socket:")]


def target(number: str) -> str:
    """The target of a descriptor."""
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except FileNotFoundError:
        # The descriptor by which the folder was listed.
        return ""


async def wait(event: Any, context: Any) -> Any:
    """Is never awaited."""
    return event


def stream(event: Any, context: Any) -> Iterator[Any]:
    """Is never iterated over."""
    yield event
