"""Runtime metrics of a function in AWS Lambda: sent at the end of each invocation, without a thread.

from runtime_metrics.aws_lambda import instrument, lambda_metric


@instrument
def handler(event, context):
    lambda_metric("coffee_house.order_value", 12.45, tags=["product:latte", "order:online"])
    return {"statusCode": 200}

Without a change to the code: set the function's handler to `runtime_metrics.aws_lambda.handler`, and the variable
DD_RUNTIME_METRICS_LAMBDA_HANDLER to its original handler.
"""

import os
import sys

from runtime_metrics import _core

__all__ = ["instrument", "lambda_metric"]

HANDLER = "runtime_metrics.aws_lambda.handler"
VARIABLE = "DD_RUNTIME_METRICS_LAMBDA_HANDLER"
# datadog-lambda's handler calls the handler that this names. Ours may wrap it, or be named here.
DATADOG_VARIABLE = "DD_LAMBDA_HANDLER"

instrument = _core.instrument
lambda_metric = _core.lambda_metric


def __getattr__(name: str) -> object:
    """Creates `handler` at its first use: a module that only uses the decorator names no handler."""
    if name != "handler":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    variable, module_name, function_name = _wrapped_handler()
    module = _imported(module_name)
    try:
        function = getattr(module, function_name)
    except AttributeError:
        # The runtime would only report that this module has no handler.
        import logging

        text = "runtime-metrics[%d]: %s: there is no %s in the module %s"
        logging.getLogger("runtime_metrics").error(text, os.getpid(), variable, function_name, module_name)
        raise
    wrapped = globals()["handler"] = instrument(function)
    return wrapped


def _wrapped_handler() -> tuple[str, str, str]:
    """The variable that names the handler to wrap, the handler's module, and its name there.

    Raises:
        ImportError: No variable names one, or one names ours. The runtime reports it as it does any failed import.
    """
    path = os.environ.get(VARIABLE, "")
    variable = VARIABLE
    if not path and not _is_ours(os.environ.get(DATADOG_VARIABLE, "")):
        path = os.environ.get(DATADOG_VARIABLE, "")
        variable = DATADOG_VARIABLE
    if not path:
        raise ImportError(f"set {VARIABLE} to the function's own handler, such as module.function")
    if _is_ours(path):
        raise ImportError(f"{variable}={path} names {HANDLER} itself; set it to the function's own handler")
    module_name, point, function_name = path.rpartition(".")
    if not (module_name and point and function_name):
        raise ImportError(f"{variable}={path}: expected module.function")
    return variable, module_name.replace("/", "."), function_name


def _is_ours(path: str) -> bool:
    return path.replace("/", ".") == HANDLER


def _imported(module_name: str) -> object:
    # Not importlib, which may not be imported yet.
    __import__(module_name)
    return sys.modules[module_name]


def _is_imported_as_handler() -> bool:
    """Whether the runtime, or datadog-lambda in its place, is importing this module for its handler.

    The variables alone do not show that: other processes of the function inherit them.
    """
    frame = sys._getframe().f_back
    while frame is not None:
        importer = frame.f_globals.get("__name__")
        if importer == "datadog_lambda.handler":
            return _is_ours(os.environ.get(DATADOG_VARIABLE, ""))
        if importer == "awslambdaric.bootstrap":
            # In an image with its own entry point it is an argument.
            return any(map(_is_ours, [os.environ.get("_HANDLER", ""), *sys.argv[1:2]]))
        frame = frame.f_back
    return False


_core.mark_set_up()

# The wrapped handler's module is imported here, so that the runtime or datadog-lambda reports a failure as that of an
# import. A missing function in it is reported at the first use of `handler`.
if _is_imported_as_handler():
    _imported(_wrapped_handler()[1])
