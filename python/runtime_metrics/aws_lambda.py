"""Runtime metrics of a function in AWS Lambda: one set at the end of each invocation, and no thread.

from runtime_metrics.aws_lambda import instrument, lambda_metric


@instrument
def handler(event, context):
    lambda_metric("coffee_house.order_value", 12.45, tags=["product:latte", "order:online"])
    return {"statusCode": 200}

Without a change to the function: set its handler to `runtime_metrics.aws_lambda.handler`, and the variable
DD_RUNTIME_METRICS_LAMBDA_HANDLER to what its handler was.
"""

import os
import sys

from runtime_metrics import _core

__all__ = ["instrument", "lambda_metric"]

OURS = "runtime_metrics.aws_lambda.handler"
NAMED_BY = "DD_RUNTIME_METRICS_LAMBDA_HANDLER"
# datadog-lambda's: its handler calls what this names, and ours may be in the place of either.
THEIRS = "DD_LAMBDA_HANDLER"

instrument = _core.instrument
lambda_metric = _core.lambda_metric


def __getattr__(name: str) -> object:
    """Makes `handler` when somebody asks for it: who imports this for the decorator names none."""
    if name != "handler":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    variable, module_name, function_name = _named()
    module = _imported(module_name)
    try:
        function = getattr(module, function_name)
    except AttributeError:
        # The runtime says only that we have no handler.
        import logging

        text = "%s: there is no %s in the module %s"
        logging.getLogger("runtime_metrics").error(text, variable, function_name, module_name)
        raise
    wrapped = globals()["handler"] = instrument(function)
    return wrapped


def _named() -> tuple[str, str, str]:
    """The variable that names the function's own handler, the handler's module and its name in it.

    Raises:
        ImportError: None does, or one names us: the runtime says this of a module that cannot be imported.
    """
    path = os.environ.get(NAMED_BY, "")
    variable = NAMED_BY
    if not path and not _is_ours(os.environ.get(THEIRS, "")):
        path = os.environ.get(THEIRS, "")
        variable = THEIRS
    if not path:
        raise ImportError(f"set {NAMED_BY} to the function's own handler, such as module.function")
    if _is_ours(path):
        raise ImportError(f"{variable}={path} names {OURS} itself; set it to the function's own handler")
    module_name, point, function_name = path.rpartition(".")
    if not (module_name and point and function_name):
        raise ImportError(f"{variable}={path}: expected module.function")
    return variable, module_name.replace("/", "."), function_name


def _is_ours(path: str) -> bool:
    return path.replace("/", ".") == OURS


def _imported(module_name: str) -> object:
    # Not importlib's, which need not be loaded yet.
    __import__(module_name)
    return sys.modules[module_name]


def _is_imported_as_handler() -> bool:
    """Whether the runtime, or datadog-lambda in its place, is importing us to have the handler.

    What the variables name is not enough: other processes of the function have them, too.
    """
    frame = sys._getframe().f_back
    while frame is not None:
        importer = frame.f_globals.get("__name__")
        if importer == "datadog_lambda.handler":
            return _is_ours(os.environ.get(THEIRS, ""))
        if importer == "awslambdaric.bootstrap":
            # An image with an entry point of its own gives it as an argument.
            return any(map(_is_ours, [os.environ.get("_HANDLER", ""), *sys.argv[1:2]]))
        frame = frame.f_back
    return False


_core.note_set_up()

# A module that cannot be imported is told as such only while we are imported ourselves, by the runtime or by
# datadog-lambda. A function that it lacks is not missing before it is asked for.
if _is_imported_as_handler():
    _imported(_named()[1])
