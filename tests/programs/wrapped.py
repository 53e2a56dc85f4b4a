"""Installs our hooks in a user's settings and calls each hook, with a value to return and one to raise.

Prints as JSON which hooks we have replaced, and which do not return or raise the same object. It needs Gunicorn,
and has a stand-in for its master with as much as the hooks read.
"""

from __future__ import annotations

import inspect
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from gunicorn.config import KNOWN_SETTINGS, Config
from gunicorn.glogging import Logger

from runtime_metrics.gunicorn import install

if TYPE_CHECKING:
    from collections.abc import Callable

ARITIES = {
    setting.name: len(inspect.signature(setting.default).parameters)
    for setting in KNOWN_SETTINGS
    if "Hooks" in setting.section
}


def hook_of(arity: int) -> Callable[..., object]:
    """A hook with so many arguments, which returns the first one or raises it."""

    def outcome_of(it: object) -> object:
        if isinstance(it, Exception):
            raise it
        return it

    hooks = (
        outcome_of,
        lambda it, _1: outcome_of(it),
        lambda it, _1, _2: outcome_of(it),
        lambda it, _1, _2, _3: outcome_of(it),
    )
    return hooks[arity - 1]


def outcome(hook: Callable[..., object], it: object, arity: int) -> object:
    """What a call returns or raises."""
    try:
        return hook(it, *range(arity - 1))
    except Exception as error:
        return error


def is_transparent(hook: Callable[..., object], arity: int) -> bool:
    """Whether a hook still has its arity, its value and its exception."""
    value, error = object(), RuntimeError()
    same = outcome(hook, value, arity) is value and outcome(hook, error, arity) is error
    return same and len(inspect.signature(hook).parameters) == arity


users = {name: hook_of(arity) for name, arity in ARITIES.items()}
namespace: dict[str, Any] = dict(users)
install(namespace)
settings = Config()
for name, hook in namespace.items():
    settings.set(name, hook)
server = SimpleNamespace(
    cfg=settings,
    worker_class=settings.worker_class,
    log=Logger(settings),
    setup=print,
    WORKERS={},
    LISTENERS=[],
    reexec_pid=0,
)
# The first that Gunicorn calls.
settings.nworkers_changed(server, 1, None)
hooks = {name: getattr(settings, name) for name in users}
print(
    json.dumps(
        {
            "wrapped": [name for name in users if hooks[name] is not users[name]],
            "different": [name for name in users if not is_transparent(hooks[name], ARITIES[name])],
        }
    )
)
