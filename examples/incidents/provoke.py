"""Provokes an incident again and again beside a local receiver, and shows the figures that it moves.

    python examples/incidents/provoke.py NAME

until Ctrl-C or for --seconds. Without a name it lists the incidents.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

HERE = Path(__file__).resolve().parent
NAMES = sorted(path.stem for path in HERE.glob("*.py") if path.name != "provoke.py")
CALM_SECONDS = PROVOKED_SECONDS = 3.0


def main() -> int:
    """Starts the receiver and the program that it shows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", choices=NAMES, metavar="NAME")
    parser.add_argument("--seconds", type=float, help="default: until Ctrl-C")
    parser.add_argument("--address", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.name is None:
        for name in NAMES:
            print(f"{name:24}{summary(name)}")
        return 0
    if arguments.address:
        provoke_again_and_again(arguments.name, arguments.address)
    with tempfile.TemporaryDirectory() as folder:
        return show(arguments.name, f"{folder}/agent", arguments.seconds)


def show(name: str, socket: str, seconds: float | None) -> int:
    """Shows the program's figures until the receiver ends; returns the receiver's exit status."""
    incident = importlib.import_module(name)
    print(f"{name}: {summary(name)}\n{incident.LOOK_AT}\n")
    end = [] if seconds is None else [f"--seconds={seconds}"]
    with subprocess.Popen(
        [sys.executable, __file__, name, "--address", f"unix://{socket}"],
        # Ctrl-C ends the receiver, and the receiver's end this program.
        start_new_session=True,
    ) as program:
        watch = f"-m runtime_metrics watch --unix {socket} --only".split()
        try:
            with subprocess.Popen([sys.executable, *watch, ",".join(incident.METRICS), *end]) as receiver:
                # Ctrl-C reaches the receiver as well, which then shows a summary.
                while receiver.poll() is None:
                    with suppress(KeyboardInterrupt):
                        receiver.wait()
        finally:
            # With what it has started: it has a session of its own.
            os.killpg(program.pid, signal.SIGKILL)
    return receiver.returncode


def provoke_again_and_again(name: str, address: str) -> None:
    """The program that is shown: calm for a while, then the incident, and so on."""
    from runtime_metrics import RuntimeMetrics

    RuntimeMetrics.enable(dogstatsd_url=address, flush_interval=1, level="standard", service=name)
    incident = importlib.import_module(name)
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(CALM_SECONDS)
        incident.provoke(PROVOKED_SECONDS)


def summary(name: str) -> str:
    """What an incident is: the first line of its program."""
    return (importlib.import_module(name).__doc__ or "").partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main())
