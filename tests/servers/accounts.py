"""The application, with an account of each process's CPU time from where metrics begin to where they end."""

from __future__ import annotations

import atexit
import json
import os
import resource
import time


def note(what: str) -> None:
    """Notes the CPU time so far: a line of ACCOUNTS."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    line = json.dumps([os.getpid(), what, usage.ru_utime + usage.ru_stime])
    with open(os.environ["ACCOUNTS"], "a") as accounts:
        accounts.write(f"{line}\n")


# A lifetime before, which must not be in the account.
END = time.process_time() + 0.2
while time.process_time() < END:
    pass

# Before metrics are enabled: a child's hooks run in this order, exit handlers in the other.
os.register_at_fork(after_in_child=lambda: note("begin"))
atexit.register(note, "end")
note("begin")

from application import asgi, wsgi  # noqa: E402

__all__ = ["asgi", "wsgi"]
