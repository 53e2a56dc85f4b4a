"""What `runtime-metrics run` has every interpreter import at its start: runs the `sitecustomize` it hides, then ours.

Any interpreter may find this file, Python 2 included: it keeps to what all of them understand, and to `os` and `sys`.
"""

import os
import sys

_folder = os.path.dirname(__file__)
_failure = None

# Only the first sitecustomize on the path is imported, so we step aside for the next.
if __name__ == "sitecustomize" and _folder in sys.path:
    _ours = sys.modules.pop(__name__)
    _index = sys.path.index(_folder)
    del sys.path[_index]
    try:
        __import__(__name__)
    except Exception as _error:
        # There is none, or it failed itself.
        if isinstance(_error, ImportError) and getattr(_error, "name", __name__) == __name__:
            sys.modules[__name__] = _ours
        else:
            _failure = _error
    finally:
        sys.path.insert(_index, _folder)

if sys.version_info >= (3, 10):
    try:
        # Read past its package, whose import loads the core: most of what is decided there is not to start. The
        # loader is importlib.machinery's, without the import of that.
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
            # Nobody can be told.
            pass

if _failure is not None:
    # Python reports it as if we were not here.
    raise _failure
