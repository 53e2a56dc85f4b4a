"""The command `runtime-metrics`: imports the module of the requested command and runs it.

Each command is a module of this package with `add_arguments(parser)` and `run(arguments)`. Only the requested one is
imported. `run` bypasses even argparse: every start of a program waits for it.
"""

from __future__ import annotations

import os
import sys

COMMANDS = {
    "run": "run a program that reports its runtime metrics",
    "check": "send metrics twice from here, and print where they go and whether they were sent",
    "catalogue": "print every metric: name, unit, kind and meaning",
    "incidents": "print what goes wrong, and which metrics to read for it, in which order",
    "variables": "print every environment variable: default, accepted values and effect",
    "watch": "receive DogStatsD on a local socket and show it",
    "demo": "run a busy program for some seconds and show its metrics",
}


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit status.

    Args:
        argv: The arguments after the program's name; by default those of the process.
    """
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["run"]:
        from runtime_metrics.cli import run

        return run.main(words[1:])

    import argparse
    import importlib

    from runtime_metrics import __version__

    for stream in (sys.stdout, sys.stderr):
        # A terminal or pipe that is not UTF-8 gets "?" in place of a trend's blocks.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")

    parser = argparse.ArgumentParser(
        prog="runtime-metrics", description="The Python interpreter's figures over DogStatsD."
    )
    parser.add_argument("--version", action="version", version=f"runtime-metrics {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="command", required=True)
    parsers = {}
    for name, purpose in COMMANDS.items():
        parsers[name] = subparsers.add_parser(name, help=purpose, description=purpose)
    try:
        chosen = words[0] if words else ""
        if chosen in COMMANDS:
            command = importlib.import_module(f"{__name__}.{chosen}")
            command.add_arguments(parsers[chosen])
            parsers[chosen].set_defaults(run=command.run)
        elif chosen and not chosen.startswith("-"):
            from runtime_metrics.cli import mistakes

            parser.error(mistakes.unknown_command(chosen, COMMANDS))
        arguments, unknown = parser.parse_known_args(words)
        if unknown:
            from runtime_metrics.cli import mistakes

            parsers[chosen].error(mistakes.unknown_option(unknown, parsers[chosen].format_usage()))
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output has gone (`| head`). The flush at exit must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    return status


def seconds(text: str) -> float:
    """The argument type of a duration: a number of seconds above zero."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value


def count(text: str) -> int:
    """The argument type of a number of things: a whole number above zero."""
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value
