"""Whether a process starts metrics without a call in its code: decided for the launcher, `auto` and autostart.

Decided in Python, with `os` and `sys` alone, so that a process that is not to start pays for nothing more: neither for
the native core, nor for `logging`, whose import before gevent's patches would escape them.
"""

import os
import sys

ENABLED = "DD_RUNTIME_METRICS_ENABLED"
EXPORTER = "OTEL_METRICS_EXPORTER"
TRUE = ("true", "1")
FALSE = ("false", "0")

# Interpreters that run no application: by the module after -m; by the module whose `main` the code after -c calls, in
# any package, as multiprocessing and its copies (billiard, loky, multiprocess) start their helpers; or by the script,
# without the version at its end. Fork servers are missing on purpose: their children report, and the core recognises
# them.
AUXILIARY_MODULES = ("ddtrace.commands.ddtrace_run", "ensurepip", "pip", "runtime_metrics", "venv")
AUXILIARY_CODE = ("resource_tracker", "semaphore_tracker")
AUXILIARY_SCRIPTS = ("__pip-runner__.py", "_in_process.py", "ddtrace-run", "pip", "runtime-metrics")


def start(*, default: bool = True, embedded: bool = False) -> None:
    """Starts metrics unless a setting or the kind of process forbids it; no setting makes it raise.

    Args:
        default: Whether to start if the variable DD_RUNTIME_METRICS_ENABLED is unset, empty or invalid.
        embedded: Whether to start in an interpreter embedded in another program, such as uWSGI, too. While such a
            program is still setting up its interpreter, its later forks would go unnoticed.

    Raises:
        ImportError: The core cannot be loaded in this interpreter.
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
        fallback = "true" if default else "false"
        _warn_once(f'{ENABLED}="{value[:200]}": expected true, false, 1 or 0; {fallback} is used')
        if not default:
            return
    if os.environ.get(EXPORTER, "").lower() == "none":
        _warn_once(f"runtime metrics are not started automatically: {EXPORTER} is none")
        return

    from runtime_metrics import _core

    _core.enable_automatically()


def is_auxiliary(command: list[str]) -> bool:
    """Whether an interpreter with this command line runs no application."""
    _, kind, name = parsed(command[1:])
    if kind == "m":
        return name in AUXILIARY_MODULES
    if kind == "c":
        return any(calls_main_of(statement, AUXILIARY_CODE) for statement in name.split(";"))
    return os.path.basename(name).removesuffix(".exe").rstrip(".0123456789") in AUXILIARY_SCRIPTS


def calls_main_of(statement: str, modules: tuple[str, ...]) -> bool:
    """Whether a statement is `from package.module import main`, of one of these modules in any package."""
    words = statement.split()
    return words[:1] + words[2:] == ["from", "import", "main"] and words[1].rpartition(".")[2] in modules


def parsed(words: list[str]) -> tuple[str, str, str]:
    """Parses an interpreter's arguments.

    Returns:
        The letters of its options; the option that names the program, "m" or "c", or "" for a script; and the module,
        the code or the script.
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
                    # The rest of the word, or else the next one, is its value.
                    word[place:] or next(rest, "")
                    break
                options += letter
    return options, "", ""


def _warn_once(text: str) -> None:
    """Logs a warning once in a process, however many copies of this module run in it."""
    warned = vars(sys).setdefault("_runtime_metrics_warned", set())
    if (os.getpid(), text) in warned:
        return
    warned.add((os.getpid(), text))
    text = f"runtime-metrics[{os.getpid()}]: {text}"
    logging = sys.modules.get("logging")
    if logging is not None:
        logging.getLogger("runtime_metrics").warning("%s", text)
    else:
        # logging's default behaviour: it cannot have been configured yet.
        write_to_stderr(text)


def write_to_stderr(text: str) -> None:
    """Writes a line to stderr, if it can be written to."""
    try:  # noqa: SIM105 (contextlib is not imported yet)
        # Unbuffered: a failed write would be retried at exit, and change the program's exit status.
        os.write(sys.stderr.fileno(), f"{text}\n".encode())
    except (AttributeError, OSError, ValueError):
        # None, full, or closed.
        pass
