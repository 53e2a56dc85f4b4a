"""A sub-interpreter runs what would start, use and stop metrics, before or after the main one has enabled them."""

from __future__ import annotations

import contextlib
import gc
import importlib
import sys
from typing import Any

from reporting import report

from runtime_metrics import RuntimeMetrics

SOURCE = """
import gc
try:
    from runtime_metrics import RuntimeMetrics
except ImportError as error:
    result = str(error)
else:
    result = "imported"
    RuntimeMetrics.enable(flush_interval=0.01)
    RuntimeMetrics.flush()
    RuntimeMetrics.disable()
for _ in range(50):
    gc.collect()
with open({path!r}, "w") as file:
    file.write(result)
"""


def run(kind: str, path: str) -> None:
    """Makes a sub-interpreter of this kind, runs the source in it and ends it."""
    low_level: Any = None
    for module in ("_interpreters", "_xxsubinterpreters"):
        with contextlib.suppress(ImportError):
            low_level = low_level or importlib.import_module(module)
    if low_level.__name__ == "_interpreters":
        interpreter = low_level.create(kind)
    else:
        interpreter = low_level.create(isolated=kind == "isolated")
    failure = low_level.run_string(interpreter, SOURCE.format(path=path))
    assert failure is None, failure
    low_level.destroy(interpreter)


def main() -> None:
    """Does what the command line says: the kind, the order, and the file for the result of the import."""
    kind, order, path = sys.argv[1:]
    gc.disable()
    if order == "after":
        RuntimeMetrics.enable()
        gc.collect()
    run(kind, path)
    if order == "before":
        RuntimeMetrics.enable()
        gc.collect()
    gc.collect()
    with open(path) as file:
        report("parent", result=file.read(), enabled=RuntimeMetrics._enabled, flushed=RuntimeMetrics.flush())
    RuntimeMetrics.disable()


if __name__ == "__main__":
    main()
