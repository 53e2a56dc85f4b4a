"""`runtime-metrics run`: replaces itself with a program in which every Python interpreter reports its runtime metrics.

On Windows, where no program can take the place of another, it waits for the program and exits with its status. All it
changes for the program is PYTHONPATH, by one folder. It parses its few arguments itself, as every start waits for it:
argparse would take longer than all the rest.
"""

from __future__ import annotations

import os
import sys

from runtime_metrics import automatic

HELP = """\
usage: runtime-metrics run [-h] [--] command [argument ...]

run a program that reports its runtime metrics

The program takes the place of this command: same process, input, signals and exit status. Each Python
interpreter in it in which we are installed reports, unless DD_RUNTIME_METRICS_ENABLED is false;
`runtime-metrics variables` prints the other variables. Nothing is reported under python -I, -E and -S,
and in uWSGI: there, `import runtime_metrics.auto` starts metrics.

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

BY_IMPORT = "nothing will be reported unless it runs `import runtime_metrics.auto`"
AFTERWARDS = "nothing will be reported unless `runtime-metrics run` comes after it"
BY_INSTALLATION = "nothing will be reported unless it is installed there"

# Asked of another interpreter, of Python 2 perhaps, without the current folder in its search path.
QUESTION = """
import sys
if sys.version_info < (3, 10):
    sys.exit(%(no)d)
sys.path[:] = [folder for folder in sys.path if folder]
try:
    import runtime_metrics
except ImportError:
    sys.exit(%(no)d)
"""
CANNOT_IMPORT = 43
ANSWER_TIMEOUT_SECONDS = 2.0


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
        what = _unknown_option(words[0]) if command else "a command is missing"
        sys.stderr.write(f"{HELP.splitlines()[0]}\nruntime-metrics run: error: {what}\n")
        return 2
    if reason := unreachable(command):
        _warn(reason)
    os.environ["PYTHONPATH"] = search_path(os.environ.get("PYTHONPATH", ""))
    _restore_signals()
    return _exec(command)


def search_path(inherited: str) -> str:
    """The PYTHONPATH with our folder first, and only there."""
    folders = inherited.split(os.pathsep) if inherited else []
    return os.pathsep.join([BOOTSTRAP, *(folder for folder in folders if folder != BOOTSTRAP)])


def unreachable(command: list[str]) -> str:
    """Why a command will not report, and what helps, as far as that can be foreseen; empty if it will."""
    program = _name(command[0])
    if program == "uwsgi":
        return f"uWSGI embeds its interpreter and imports no sitecustomize from PYTHONPATH; {BY_IMPORT}"
    if program in ("sudo", "doas"):
        is_kept = any("PYTHONPATH" in word or _is_ours(word) for word in command)
        return "" if is_kept else f"{program} removes PYTHONPATH from the environment; {AFTERWARDS}"
    if program == "env":
        lost, rest = _parsed_env(command[1:])
        if not rest or _is_ours(rest[0]):
            return ""
        if lost:
            return f"env {lost} removes the launcher's folder from PYTHONPATH; {AFTERWARDS}"
        return unreachable(rest)
    interpreter, *words = _interpreter(command) or [""]
    options, _, _ = automatic.parsed(words)
    python = os.path.basename(interpreter)
    for option in "IE":
        if option in options:
            return f"{python} -{option} ignores PYTHONPATH; {BY_IMPORT}"
    if "S" in options:
        return f"{python} -S imports no sitecustomize; {BY_IMPORT}"
    if interpreter and _lacks_us(interpreter):
        return f"{interpreter} cannot import runtime_metrics; {BY_INSTALLATION}"
    return ""


def _parsed_env(words: list[str]) -> tuple[str, list[str]]:
    """Parses the arguments of env: the one by which our folder is lost, and the command."""
    lost = ""
    rest = iter(words)
    for word in rest:
        if word in ("-u", "--unset"):
            word = f"{word} {next(rest, '')}"
        elif word in ("-C", "--chdir"):
            next(rest, "")
        if word.startswith(("-S", "--split-string")):
            return "", []
        if word.startswith("-"):
            clears = word == "--ignore-environment" or (word[1:2] != "-" and not word.strip("-i0v"))
            if (clears and ("i" in word or word == "-")) or word.endswith("PYTHONPATH"):
                lost = word
        elif word.startswith("PYTHONPATH="):
            lost = word
        elif "=" not in word:
            return lost, [word, *rest]
    return lost, []


def _interpreter(command: list[str]) -> list[str]:
    """The command line of the Python interpreter that runs, also by the first line of a script; empty for others."""
    path = _found(command[0])
    if not path:
        return []
    if _is_python(path):
        return [path, *command[1:]]
    try:
        with open(path, "rb") as file:
            line = file.readline(256)
    except OSError:
        return []
    # One argument at most: the rest of the line.
    words = os.fsdecode(line[2:]).split(None, 1) if line.startswith(b"#!") else []
    if len(words) == 2 and os.path.basename(words[0]) == "env":
        words = words[1].removeprefix("-S").split()
    interpreter = _found(words[0]) if words and _is_python(words[0]) else ""
    return [interpreter, *map(str.rstrip, words[1:]), path] if interpreter else []


def _name(program: str) -> str:
    name = os.path.basename(program)
    return name[:-4] if name.lower().endswith(".exe") else name


def _is_python(program: str) -> bool:
    return _name(program).rstrip(".0123456789") in ("python", "pypy")


def _is_ours(program: str) -> bool:
    return _name(program) == "runtime-metrics"


def _found(program: str) -> str:
    """The file of a program; empty if it is not found."""
    if sys.platform == "win32":
        import shutil  # as it knows the suffixes of programs

        return shutil.which(program) or ""
    folders = [""] if os.path.dirname(program) else os.environ.get("PATH", os.defpath).split(os.pathsep)
    paths = (os.path.join(folder, program) for folder in folders)
    return next((path for path in paths if os.path.isfile(path) and os.access(path, os.X_OK)), "")


def _lacks_us(python: str) -> bool:
    """Whether an interpreter cannot import this package; False if that does not become known."""
    ours = sys.executable or ""
    if os.path.realpath(python) == os.path.realpath(ours) and (
        os.path.realpath(os.path.dirname(python)) == os.path.realpath(os.path.dirname(ours))
    ):
        return False
    if os.environ.get(automatic.ENABLED, "").lower() in automatic.FALSE or not hasattr(os, "posix_spawn"):
        return False
    try:
        with open(python, "rb") as file:
            # What a script such as pyenv's takes to find its interpreter would be too long.
            return file.read(2) != b"#!" and _exit_status(python) == CANNOT_IMPORT
    except OSError:
        return False


def _exit_status(python: str) -> int:
    """Has an interpreter try to import this package; 0 if it has not ended in time."""
    import time

    folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    # What another launcher would start is for the program alone.
    folders = [folder for folder in folders if not os.path.isfile(os.path.join(folder, "sitecustomize.py"))]
    environment = os.environ | {automatic.ENABLED: "false", "PYTHONPATH": os.pathsep.join(folders)}
    null = os.open(os.devnull, os.O_RDWR)
    try:
        streams = [(os.POSIX_SPAWN_DUP2, null, number) for number in range(3)]
        command = [python, "-B", "-c", QUESTION % {"no": CANNOT_IMPORT}]
        pid = os.posix_spawn(python, command, environment, file_actions=streams)
    finally:
        os.close(null)
    deadline = time.monotonic() + ANSWER_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return 0


def _unknown_option(word: str) -> str:
    hint = ""
    if word[:2] in ("-m", "-c"):
        hint = f"; did you mean `runtime-metrics run python {word} ...`?"
    elif word.startswith("--h"):
        hint = "; did you mean --help?"
    return f"unknown option {word}{hint}"


def _exec(command: list[str]) -> int:
    name = command[0]
    try:
        if sys.platform == "win32":
            return _wait_for([_found(name) or name, *command[1:]])
        os.execvp(name, command)
    except (FileNotFoundError, NotADirectoryError):
        import shutil  # needed only here

        if shutil.which(name):
            _warn(f"{name}: the interpreter in its first line does not exist")
            return NOT_EXECUTABLE
        if os.path.dirname(name):
            _warn(f"{name}: no such file")
        elif os.path.isfile(name):
            meant = f"./{name}" if os.access(name, os.X_OK) else f"python {name}"
            _warn(f"{name}: command not found; did you mean `runtime-metrics run {meant}`?")
        else:
            _warn(f"{name}: command not found")
        return NOT_FOUND
    except OSError as error:
        hint = f"; did you mean `runtime-metrics run python {name}`?" if os.path.isfile(name) else ""
        _warn(f"{name}: {error.strerror}{hint}")
        return NOT_EXECUTABLE


def _wait_for(command: list[str]) -> int:
    """Runs the program as a child; returns its exit status."""
    import _signal  # type: ignore[import-not-found]
    import subprocess  # needed only here

    # The console interrupts the program as well, which may handle that. A KeyboardInterrupt here could come just when
    # the status is known, and lose it; the program does not inherit a handler.
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, lambda *_: None)
    with subprocess.Popen(command) as program:
        status = program.wait()
    # Windows gives it without a sign, and sys.exit() takes it with one.
    return status if status < 1 << 31 else status - (1 << 32)


def _restore_signals() -> None:
    """Undoes what Python does to two signals: the program would inherit that they are ignored."""
    # `signal` itself adds enumerations, which would take longer to import than all the rest.
    import _signal

    for name in ("SIGPIPE", "SIGXFSZ"):
        if hasattr(_signal, name):
            _signal.signal(getattr(_signal, name), _signal.SIG_DFL)


def _warn(text: str) -> None:
    automatic.write_to_stderr(f"runtime-metrics run: {text}")
