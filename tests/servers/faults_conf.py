"""Gunicorn's settings for test_gunicorn_hooks.py: our hooks alone, and one call of ours that fails.

FAULT names the call: a function of our module, or one of the core.
"""

from __future__ import annotations

import os
from typing import Any

from runtime_metrics import _core
from runtime_metrics.gunicorn import *  # noqa: F403
from runtime_metrics.gunicorn import hooks, master, worker

FAULT = os.environ["FAULT"]


def fail(*_: object) -> Any:
    """Takes the place of a function of ours."""
    raise RuntimeError(FAULT)


class Faulty:
    """Takes the place of an object of our core, or of the core; its calls return such objects again."""

    def __init__(self, real: Any) -> None:
        """Wraps the real one."""
        self._real = real

    def __getattr__(self, name: str) -> Any:
        """A call."""
        call = getattr(self._real, name)
        if f"{type(self._real).__name__}.{name}" == FAULT:
            return fail

        def wrapped(*arguments: Any) -> Any:
            result = call(*arguments)
            return (
                Faulty(result)
                if type(result).__name__ in ("GunicornMaster", "Requests", "Request")
                else result
            )

        return wrapped


for module in (hooks, master, worker):
    vars(module)["_core"] = Faulty(_core)
    if FAULT in vars(module):
        vars(module)[FAULT] = fail

if FAULT == "Request.answer":
    # It is for what a hook of the user's does after the answer.
    def post_request(worker: Any, req: Any, environ: Any, resp: Any) -> None:
        """A hook of the user's."""
