"""A warning of ours through loguru's documented handlers for `logging`: the current one, or an older one."""

import inspect
import logging
import sys
import time

from loguru import logger  # type: ignore[import-not-found]

from runtime_metrics import RuntimeMetrics


class Intercepting(logging.Handler):
    """Passes records on, from the frame that logged."""

    def emit(self, record: logging.LogRecord) -> None:
        """Finds that frame, as the recipe of this release does."""
        if sys.argv[1] == "current":
            frame, depth = inspect.currentframe(), 0
            while frame and (depth == 0 or frame.f_code.co_filename == logging.__file__):
                frame, depth = frame.f_back, depth + 1
        elif sys.argv[1] == "0.6":
            frame, depth = logging.currentframe(), 2
            while frame.f_code.co_filename == logging.__file__:  # type: ignore[union-attr]
                frame, depth = frame.f_back, depth + 1  # type: ignore[union-attr]
        else:
            frame, depth = sys._getframe(6), 6
            while frame and frame.f_code.co_filename == logging.__file__:
                frame, depth = frame.f_back, depth + 1
        logger.opt(depth=depth, exception=record.exc_info).log(record.levelname, record.getMessage())
        logged.append(record)


logged: list[logging.LogRecord] = []
logger.remove()
logger.add(sys.stdout, format="{level} {message}")
logging.basicConfig(handlers=[Intercepting()], level=logging.WARNING)
RuntimeMetrics.enable(flush_interval=0.01)
deadline = time.monotonic() + 30
while not logged and time.monotonic() < deadline:
    time.sleep(0.01)
