"""How a message of the core reaches the program's log.

In Python, so that handlers find a frame of Python code that logs, which some of them look for. Nothing is imported:
a program that does not use `logging` is not to load it for us, and gevent's patches would come too late for it.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NAME = "runtime_metrics"


def log(level: int, text: str, *, native: bool, verbose: bool) -> bool:
    """Logs a message, if the program has imported `logging`.

    Args:
        level: Its level.
        text: Its text.
        native: Whether the thread is one that Python did not start.
        verbose: Whether the message is written to stderr as well.

    Returns:
        Whether it has reached the log, or is not wanted there.

    Raises:
        BaseException: What a handler of the program raises.
    """
    logging = sys.modules.get("logging")
    if logging is None or (native and _is_monkey_patched()):
        # The locks of the program's handlers are those of greenlets.
        return is_silenced(level)
    logger = logging.getLogger(NAME)
    if verbose and not logger.hasHandlers():
        # logging itself would write to stderr.
        return False
    if native:
        _log_without_trace(logging, logger, level, text)
    else:
        logger.log(level, "%s", text)
    return True


def is_silenced(level: int) -> bool:
    """Whether the program does not want messages of this level; takes no lock."""
    logging = sys.modules.get("logging")
    if logging is None:
        return False
    manager = logging.Logger.manager
    logger = manager.loggerDict.get(NAME)
    if not isinstance(logger, logging.Logger):
        logger = logging.root
    return bool(manager.disable >= level or logger.disabled or logger.getEffectiveLevel() > level)


def nearest(name: str, names: list[str]) -> str | None:
    """The one of these names that this one is probably meant to be."""
    from difflib import get_close_matches

    return next(iter(get_close_matches(name, names, n=1, cutoff=0.8)), None)


def _is_monkey_patched() -> bool:
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    return (gevent is not None and gevent.is_module_patched("threading")) or (
        eventlet is not None and eventlet.is_monkey_patched("thread")
    )


def _log_without_trace(logging: Any, logger: Any, level: int, text: str) -> None:
    # `logging` asks its `threading` for the current thread, even where ddtrace has removed that module from
    # sys.modules. For a thread that Python did not start, `threading` makes an entry, and gevent and eventlet replace
    # that by one of theirs.
    threading = logging.threading
    ident = threading.get_ident()
    existed = ident in threading._active
    try:
        logger.log(level, "%s", text)
    finally:
        if not existed:
            threading._active.pop(ident, None)
