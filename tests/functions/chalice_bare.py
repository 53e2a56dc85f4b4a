"""The same application without us."""

from __future__ import annotations

import sys
from types import ModuleType

import chalice


class Without(ModuleType):
    """Takes the place of our module."""

    @staticmethod
    def instrument(handler: object) -> object:
        """Returns the handler unchanged."""
        return handler


sys.modules["runtime_metrics.aws_lambda"] = Without("runtime_metrics.aws_lambda")
assert chalice.Chalice

from chalice_app import app, orders, pure  # noqa: E402

__all__ = ["app", "orders", "pure"]
