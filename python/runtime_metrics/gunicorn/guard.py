"""Keeps errors of ours away from Gunicorn: each is logged once in a process."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_LOG = logging.getLogger("runtime_metrics")

_warned: set[object] = set()


def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a function so that an exception is logged and None returned."""

    @functools.wraps(function)
    def wrapper(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:
            warn_of_failure(function.__name__.strip("_"), error)

    return wrapper


def warn_of_failure(where: str, error: Exception) -> None:
    """Logs the first error of its type in each place; its text may differ every time."""
    warn_once(f"Gunicorn metrics are incomplete: {where} failed: {error!r}", key=(where, type(error)))


def warn_once(text: str, key: object = None) -> None:
    """Logs a warning unless one with the same key, by default its text, has been logged."""
    key = key or text
    if key not in _warned:
        _warned.add(key)
        # A logging filter of the program may raise.
        with contextlib.suppress(Exception):
            _LOG.warning("runtime-metrics[%s]: %s", os.getpid(), text)
