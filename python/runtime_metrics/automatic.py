"""Whether a process starts metrics without being told to in code: asked by the launcher, `auto` and autostart.

It is decided in Python, with `os` and `sys` alone, so that a process that shall not start pays for nothing more: not
for the native core, and not for `logging`, which would be there before gevent could patch what it uses.
"""

import os
import sys

ENABLED = "DD_RUNTIME_METRICS_ENABLED"
EXPORTER = "OTEL_METRICS_EXPORTER"
TRUE = ("true", "1")
FALSE = ("false", "0")

# Interpreters that run no application: a module after -m, the beginning of the code after -c, or a script, without
# the version at its end. multiprocessing's fork server is not here: its children report, and the core knows it.
AUXILIARY_MODULES = ("ddtrace.commands.ddtrace_run", "ensurepip", "pip", "runtime_metrics", "venv")
AUXILIARY_CODE = ("from multiprocessing.resource_tracker import main",)
AUXILIARY_SCRIPTS = ("__pip-runner__.py", "ddtrace-run", "pip", "runtime-metrics")


def start(*, default: bool = True, embedded: bool = False) -> None:
    """Starts metrics unless something speaks against it; raises nothing on account of a setting.

    Args:
        default: Whether to start if the variable DD_RUNTIME_METRICS_ENABLED is unset, empty or wrong.
        embedded: Whether to start within another program, such as uWSGI, too. Before that has set its interpreter up
            we could not know of the forks it makes.

    Raises:
        ImportError: The core does not load in this interpreter.
    """
    value = os.environ.get(ENABLED, "")
    enabled = value.lower()
    if enabled in FALSE or not (enabled or default):
        return
    core = sys.modules.get("runtime_metrics._core")
    if core is not None and core.enabled():
        return
    if is_auxiliary(sys.orig_argv) if sys.orig_argv else not embedded:
        return
    if enabled and enabled not in TRUE:
        instead = "true" if default else "false"
        _warn(f'{ENABLED}="{value[:200]}": expected true, false, 1 or 0; {instead} is used')
        if not default:
            return
    if os.environ.get(EXPORTER, "").lower() == "none":
        _warn(f"runtime metrics are not started automatically: {EXPORTER} is none")
        return

    from runtime_metrics import _core

    _core.enable_automatically()


def is_auxiliary(command: list[str]) -> bool:
    """Whether an interpreter with this command line runs no application."""
    _, kind, name = parsed(command[1:])
    if kind == "m":
        return name in AUXILIARY_MODULES
    if kind == "c":
        return name.startswith(AUXILIARY_CODE)
    return os.path.basename(name).removesuffix(".exe").rstrip(".0123456789") in AUXILIARY_SCRIPTS


def parsed(words: list[str]) -> tuple[str, str, str]:
    """Takes an interpreter's arguments apart.

    Returns:
        The letters of its options; the one that names the program, "m" or "c", empty before a script; and the
        module, the code or the script.
    """
    options = ""
    rest = iter(words)
    for word in rest:
        if word == "--check-hash-based-pycs":
            next(rest, "")
        elif word == "-" or not word.startswith("-"):
            return options, "", word
        elif not word.startswith("--"):
            for place, letter in enumerate(word[1:], start=2):
                if letter in "cm":
                    return options, letter, word[place:] or next(rest, "")
                if letter in "WX":
                    # What follows is its value.
                    word[place:] or next(rest, "")
                    break
                options += letter
    return options, "", ""


def _warn(text: str) -> None:
    """Says something once in a process, however often it is asked to start and from however many copies of this."""
    said = vars(sys).setdefault("_runtime_metrics_said", set())
    if (os.getpid(), text) in said:
        return
    said.add((os.getpid(), text))
    logging = sys.modules.get("logging")
    if logging is not None:
        logging.getLogger("runtime_metrics").warning("%s", text)
    else:
        # As logging would, which nobody can have set up yet.
        complain(text)


def complain(text: str) -> None:
    """Says something on stderr, if there is one that can be written to."""
    try:  # noqa: SIM105 (contextlib is not imported yet)
        # Past its buffer: what could not be written would be tried again at exit, and cost the program its status.
        os.write(sys.stderr.fileno(), f"{text}\n".encode())
    except (AttributeError, OSError, ValueError):
        # None, full, or closed.
        pass
