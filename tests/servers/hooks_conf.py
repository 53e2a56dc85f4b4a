"""Gunicorn's settings for test_gunicorn_hooks.py: a user's settings with every hook of Gunicorn 27.

Each hook appends a line to the file CALLS: its process, its name and its arguments. INSTALLED says how our module is
installed, OMITTED which hook the user does not have, RAISING which hook raises.
"""

from __future__ import annotations

import json
import os
import ssl
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

INSTALLED = os.environ["INSTALLED"]

if INSTALLED == "first":
    from runtime_metrics.gunicorn import *  # noqa: F403


def record(name: str, *arguments: object) -> None:
    """Records a call, and raises if this hook is the one that does."""
    line = json.dumps([os.getpid(), name, [describe(argument) for argument in arguments]])
    with open(os.environ["CALLS"], "a") as calls:
        calls.write(f"{line}\n")
    if name == os.environ.get("RAISING"):
        raise RuntimeError(name)


def describe(argument: Any) -> str:
    """Its type, and what is in it for some types."""
    inside = argument.get("PATH_INFO") if isinstance(argument, dict) else getattr(argument, "status", "")
    return f"{argument if isinstance(argument, int) else type(argument).__name__} {inside}".strip()


def of_one(name: str) -> Any:
    """A hook with one argument."""
    return lambda one: record(name, one)


def of_two(name: str) -> Any:
    """A hook with two."""
    return lambda one, two: record(name, one, two)


def of_three(name: str) -> Any:
    """A hook with three."""
    return lambda one, two, three: record(name, one, two, three)


def of_four(name: str) -> Any:
    """A hook with four."""
    return lambda one, two, three, four: record(name, one, two, three, four)


HOOKS = {
    "on_starting": of_one,
    "on_reload": of_one,
    "when_ready": of_one,
    "pre_fork": of_two,
    "post_fork": of_two,
    "post_worker_init": of_one,
    "worker_int": of_one,
    "worker_abort": of_one,
    "pre_exec": of_one,
    "pre_request": of_two,
    # It may leave out its last one or two arguments.
    "post_request": {"2": of_two, "3": of_three, "4": of_four}[os.environ.get("POST_REQUEST", "4")],
    "child_exit": of_two,
    "worker_exit": of_two,
    "nworkers_changed": of_three,
    "on_exit": of_one,
    "on_dirty_starting": of_one,
    "dirty_post_fork": of_two,
    "dirty_worker_init": of_one,
    "dirty_worker_exit": of_two,
}
globals().update({name: hook(name) for name, hook in HOOKS.items() if name != os.environ.get("OMITTED")})


def ssl_context(settings: object, default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """The one hook whose value counts: encryption without a certificate."""
    record("ssl_context", settings, default)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AECDH-AES128-SHA:@SECLEVEL=0")
    return context


if INSTALLED == "last":
    from runtime_metrics.gunicorn import install

    install(globals())
