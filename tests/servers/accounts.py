"""The application, with an account of each process's CPU time from where metrics begin to where they end."""

from __future__ import annotations

import atexit
import json
import os
import resource
import time


def record(event: str) -> None:
    """Appends the CPU time so far to the file ACCOUNTS."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    line = json.dumps([os.getpid(), event, usage.ru_utime + usage.ru_stime])
    with open(os.environ["ACCOUNTS"], "a") as accounts:
        accounts.write(f"{line}\n")


# CPU time from before metrics begin, which must not be reported.
END = time.process_time() + 0.2
while time.process_time() < END:
    pass

# Before metrics are enabled: a child's hooks run in this order, exit handlers in the other.
os.register_at_fork(after_in_child=lambda: record("begin"))
atexit.register(record, "end")
record("begin")

from application import asgi, wsgi  # noqa: E402

__all__ = ["asgi", "wsgi"]
