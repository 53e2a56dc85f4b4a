"""The interpreter's GC, thread, memory and CPU figures, sent to a Datadog Agent every ten seconds.

from runtime_metrics import RuntimeMetrics

RuntimeMetrics.enable()
"""

from __future__ import annotations

from runtime_metrics import _core
from runtime_metrics import messages as messages  # The core calls its functions.

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime_metrics.status import Status

__all__ = ["RuntimeMetrics", "Status"]

__version__ = _core.__version__


class _Enabled(type):
    @property
    def _enabled(cls) -> bool:
        return _core.enabled()


class RuntimeMetrics(metaclass=_Enabled):
    """Collects and sends this process's runtime metrics; these six names are the whole interface.

    ``RuntimeMetrics._enabled`` says whether metrics are collected, as in ddtrace.
    """

    enable = staticmethod(_core.enable)
    disable = staticmethod(_core.disable)
    flush = staticmethod(_core.flush)
    snapshot = staticmethod(_core.snapshot)
    status = staticmethod(_core.status)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Imports the type of RuntimeMetrics.status() for a program that names it."""
        if name != "Status":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from runtime_metrics.status import Status

        return Status
