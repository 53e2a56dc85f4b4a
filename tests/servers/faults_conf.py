"""Gunicorn's settings for test_gunicorn_hooks.py: ours alone, with one call that fails.

FAULT names the call: a function of our module's, or what it calls in the core.
"""

from __future__ import annotations

import os
from typing import Any

from runtime_metrics import _core
from runtime_metrics.gunicorn import *  # noqa: F403
from runtime_metrics.gunicorn import hooks, master, worker

FAULT = os.environ["FAULT"]


def fail(*_: object) -> Any:
    """Stands for a function of ours."""
    raise RuntimeError(FAULT)


class Faulty:
    """Stands for an object of our core, or for the core itself; what its calls give is such an object again."""

    def __init__(self, real: Any) -> None:
        """Takes the real one."""
        self._real = real

    def __getattr__(self, name: str) -> Any:
        """A call."""
        call = getattr(self._real, name)
        if f"{type(self._real).__name__}.{name}" == FAULT:
            return fail

        def passed_on(*arguments: Any) -> Any:
            given = call(*arguments)
            return (
                Faulty(given) if type(given).__name__ in ("GunicornMaster", "Requests", "Request") else given
            )

        return passed_on


for module in (hooks, master, worker):
    vars(module)["_core"] = Faulty(_core)
    if FAULT in vars(module):
        vars(module)[FAULT] = fail

if FAULT == "Request.answer":
    # It is for what a hook of the user's does after the answer.
    def post_request(worker: Any, req: Any, environ: Any, resp: Any) -> None:
        """A hook of the user's."""
