"""Handlers that know nothing of metrics."""

import os
import sys
import time


def echo(event, context):
    """Answers with what it was asked."""
    return {"event": event, "id": context.aws_request_id}


def fail(event, context):
    """Raises what it is told to, some frames down."""
    return deeper(event)


def deeper(event):
    raise {"value": ValueError, "system": SystemError, "key": KeyError}[event](f"no {event}")


def leave(event, context):
    """Ends the process."""
    sys.exit(3)


def unprintable(event, context):
    """Answers with what JSON does not know."""
    return {1, 2}


def spin(event, context):
    """Uses so many seconds of CPU time in user mode, and says what it took."""
    began, used = time.perf_counter(), time.process_time()
    while time.process_time() - used < event:
        sum(range(20_000))
    return {"seconds": time.perf_counter() - began, "cpu": time.process_time() - used}


def doze(event, context):
    """Sleeps so long."""
    time.sleep(event)
    return None


def descriptors(event, context):
    """Which sockets are open."""
    return [name for name in map(target, os.listdir("/proc/self/fd")) if name.startswith("socket:")]


def target(number):
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        return ""


async def wait(event, context):
    """Is never awaited."""
    return event


def stream(event, context):
    """Is never iterated over."""
    yield event
