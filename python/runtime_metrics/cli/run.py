"""`runtime-metrics run`: becomes another program, in which every Python interpreter reports its runtime metrics.

The one change to the program's world is a folder in PYTHONPATH. The command reads its own few words, as it is on the
way of every start: argparse would take longer than all the rest.
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
    """Becomes the program; returns, with the exit code, only if it cannot.

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
        _complain(f"{reason}; nothing will be reported unless it runs `import runtime_metrics.auto`")
    os.environ["PYTHONPATH"] = search_path(os.environ.get("PYTHONPATH", ""))
    _restore_signals()
    return _become(command)


def search_path(inherited: str) -> str:
    """The PYTHONPATH with our folder at its head, once."""
    folders = inherited.split(os.pathsep) if inherited else []
    return os.pathsep.join([BOOTSTRAP, *(folder for folder in folders if folder != BOOTSTRAP)])


def unreachable(command: list[str]) -> str:
    """Why a command will not import our sitecustomize, as far as one can see; empty if it will."""
    program = os.path.basename(command[0])
    if program == "uwsgi":
        return "uWSGI is an interpreter within another program"
    if program.rstrip(".0123456789") in ("python", "pypy"):
        options, _, _ = automatic.parsed(command[1:])
        for option in "IES":
            if option in options:
                return f"{program} -{option} does not look at what is set up here"
    return ""


def _become(command: list[str]) -> int:
    name = command[0]
    try:
        os.execvp(name, command)
    except (FileNotFoundError, NotADirectoryError):
        # Only on the way out.
        import shutil

        if shutil.which(name) or os.path.isfile(name):
            _complain(f"{name}: the interpreter in its first line does not exist")
            return NOT_EXECUTABLE
        _complain(f"{name}: {'no such file' if os.path.dirname(name) else 'command not found'}")
        return NOT_FOUND
    except OSError as error:
        hint = f"; did you mean `runtime-metrics run python {name}`?" if os.path.isfile(name) else ""
        _complain(f"{name}: {error.strerror}{hint}")
        return NOT_EXECUTABLE


def _restore_signals() -> None:
    """Python ignores two signals, and the program would inherit that."""
    # What `signal` is made of. The enumerations it adds would take longer to import than all the rest.
    import _signal  # type: ignore[import-not-found]

    for name in ("SIGPIPE", "SIGXFSZ"):
        if hasattr(_signal, name):
            _signal.signal(getattr(_signal, name), _signal.SIG_DFL)


def _complain(text: str) -> None:
    automatic.complain(f"runtime-metrics run: {text}")
