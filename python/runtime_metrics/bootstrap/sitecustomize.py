"""Imported by every interpreter under `runtime-metrics run`: runs the `sitecustomize` it hides, then starts metrics.

Any interpreter may find this file, Python 2 included: it uses only syntax that all of them parse, and `os` and `sys`.
"""

import os
import sys

_folder = os.path.dirname(__file__)
_failure = None

# Python imports only the first sitecustomize on the path: leave the path for the import of the next one.
if __name__ == "sitecustomize" and _folder in sys.path:
    _ours = sys.modules.pop(__name__)
    _index = sys.path.index(_folder)
    del sys.path[_index]
    try:
        __import__(__name__)
    except Exception as _error:
        # There is no other, or it failed.
        if isinstance(_error, ImportError) and getattr(_error, "name", __name__) == __name__:
            sys.modules[__name__] = _ours
        else:
            _failure = _error
    finally:
        sys.path.insert(_index, _folder)

if sys.version_info >= (3, 10):
    try:
        # Loaded without its package, whose import would load the core: most interpreters do not start metrics. The
        # loader is that of importlib.machinery, without importing it.
        _loader = sys.modules["_frozen_importlib_external"].SourceFileLoader(
            "runtime_metrics.automatic", os.path.join(os.path.dirname(_folder), "automatic.py")
        )
        _automatic = {"__name__": _loader.name}
        exec(_loader.get_code(_loader.name), _automatic)
        _automatic["start"]()
    except ImportError:
        # Not installed in this interpreter, or not built for it.
        pass
    except Exception as _error:
        try:
            _text = "runtime-metrics: not started: %s: %s\n" % (type(_error).__name__, _error)
            os.write(sys.stderr.fileno(), _text.encode())
        except Exception:
            # stderr is closed.
            pass

if _failure is not None:
    # Python reports it as it would without this file.
    raise _failure
