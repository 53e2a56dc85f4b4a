"""`runtime-metrics run`: replaces itself with a program in which every Python interpreter reports its runtime metrics.

All it changes for the program is PYTHONPATH, by one folder. It parses its few arguments itself, as every start waits
for it: argparse would take longer than all the rest.
"""

from __future__ import annotations

import os
import sys

from runtime_metrics import automatic

HELP = """\
usage: runtime-metrics run [-h] [--] command [argument ...]

run a program that reports its runtime metrics

The program takes the place of this command: same process, input, signals and exit status. Each Python
interpreter in it reports, unless DD_RUNTIME_METRICS_ENABLED is false; the other variables are in
docs/configuration.md. Nothing is reported under python -I, -E and -S, and in uWSGI: there,
`import runtime_metrics.auto` starts metrics.

options:
  -h, --help  show this help message and exit

exit status: that of the program; 127 if there is no such command, 126 if it cannot be run

examples:
  runtime-metrics run python app.py
  runtime-metrics run gunicorn --workers 4 shop:application
  runtime-metrics run ddtrace-run python app.py
"""

BOOTSTRAP = os.path.join(os.path.dirname(os.path.abspath(automatic.__file__)), "bootstrap")
NOT_EXECUTABLE = 126
NOT_FOUND = 127


def main(words: list[str]) -> int:
    """Replaces this process with the program; returns an exit status only if that fails.

    Args:
        words: The options of this command, then the program's command line.
    """
    if words[:1] in (["-h"], ["--help"]):
        sys.stdout.write(HELP)
        return 0
    command = words[1:] if words[:1] == ["--"] else words
    if not command or (command is words and words[0].startswith("-")):
        what = f"unknown option {words[0]}" if command else "a command is missing"
        sys.stderr.write(f"{HELP.splitlines()[0]}\nruntime-metrics run: error: {what}\n")
        return 2
    if reason := unreachable(command):
        _warn(f"{reason}; nothing will be reported unless it runs `import runtime_metrics.auto`")
    os.environ["PYTHONPATH"] = search_path(os.environ.get("PYTHONPATH", ""))
    _restore_signals()
    return _exec(command)


def search_path(inherited: str) -> str:
    """The PYTHONPATH with our folder first, and only there."""
    folders = inherited.split(os.pathsep) if inherited else []
    return os.pathsep.join([BOOTSTRAP, *(folder for folder in folders if folder != BOOTSTRAP)])


def unreachable(command: list[str]) -> str:
    """Why a command will not import our sitecustomize, as far as its command line shows; empty if it will."""
    program = os.path.basename(command[0])
    if program == "uwsgi":
        return "uWSGI embeds its interpreter and imports no sitecustomize from PYTHONPATH"
    if program.rstrip(".0123456789") in ("python", "pypy"):
        options, _, _ = automatic.parsed(command[1:])
        for option in "IE":
            if option in options:
                return f"{program} -{option} ignores PYTHONPATH"
        if "S" in options:
            return f"{program} -S imports no sitecustomize"
    return ""


def _exec(command: list[str]) -> int:
    name = command[0]
    try:
        os.execvp(name, command)
    except (FileNotFoundError, NotADirectoryError):
        import shutil  # needed only here

        if shutil.which(name) or os.path.isfile(name):
            _warn(f"{name}: the interpreter in its first line does not exist")
            return NOT_EXECUTABLE
        _warn(f"{name}: {'no such file' if os.path.dirname(name) else 'command not found'}")
        return NOT_FOUND
    except OSError as error:
        hint = f"; did you mean `runtime-metrics run python {name}`?" if os.path.isfile(name) else ""
        _warn(f"{name}: {error.strerror}{hint}")
        return NOT_EXECUTABLE


def _restore_signals() -> None:
    """Undoes what Python does to two signals: the program would inherit that they are ignored."""
    # `signal` itself adds enumerations, which would take longer to import than all the rest.
    import _signal  # type: ignore[import-not-found]

    for name in ("SIGPIPE", "SIGXFSZ"):
        if hasattr(_signal, name):
            _signal.signal(getattr(_signal, name), _signal.SIG_DFL)


def _warn(text: str) -> None:
    automatic.write_to_stderr(f"runtime-metrics run: {text}")
