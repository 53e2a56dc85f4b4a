"""What each level costs a process in ten seconds, compared with ddtrace's RuntimeMetrics in the same run.

    python benches/levels.py OURS_PYTHON DDTRACE_PYTHON [--seconds 20] [--rounds 3]

Each PYTHON is that of a virtual environment in which one of the two is installed. Linux only.
benches/README.md explains each figure.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

from host import environment, exclusive, start_sink

HERE = Path(__file__).parent
SUBJECTS = {"ddtrace": "ddtrace", "default": "ours", "standard": "ours"}
WORKLOADS = ("idle", "busy", "large", "server")


def main() -> None:
    """Takes the figures in turn, and prints a table of each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ours", metavar="OURS_PYTHON", type=os.path.abspath)
    parser.add_argument("ddtrace", metavar="DDTRACE_PYTHON", type=os.path.abspath)
    parser.add_argument("--seconds", type=int, default=20, help="of each workload (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    pythons = {"ours": chosen.ours, "ddtrace": chosen.ddtrace}
    with exclusive(__file__):
        port = start_sink()

        def figures(subject: str, *words: str) -> dict[str, float]:
            library = SUBJECTS.get(subject, "ours")
            settings = {"DD_AGENT_HOST": "127.0.0.1", "DD_DOGSTATSD_PORT": str(port)}
            if library == "ours":
                settings["DD_RUNTIME_METRICS_LEVEL"] = subject
            command = [pythons[library], str(HERE / "workloads.py"), library, *words]
            done = subprocess.run(
                command, env=environment(**settings), capture_output=True, text=True, check=False
            )
            if done.returncode:
                sys.exit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr[-2000:]}")
            found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
            return found

        def medians(subject: str, *words: str) -> dict[str, float]:
            rounds = [figures(subject, *words) for _ in range(chosen.rounds)]
            return {name: median(each[name] for each in rounds) for name in rounds[0]}

        seconds = str(chosen.seconds)
        print(
            "| workload | subject | CPU of its threads in 10 s, ms | longest pause of a second, us: p50 | p99 |"
        )
        print("| --- | --- | --- | --- | --- |")
        for workload in WORKLOADS:
            for subject in SUBJECTS:
                found = medians(subject, workload, seconds)
                pauses = [f"{found[name]:.0f}" if name in found else "" for name in ("p50_us", "p99_us")]
                print(
                    f"| {workload} | {subject} | {found['cpu_ms']:.2f} | {' | '.join(pauses)} |", flush=True
                )
        print(
            "\n| subject | requests/s, compared with those of neighbouring moments without it |\n| --- | --- |"
        )
        for subject in SUBJECTS:
            print(f"| {subject} | {medians(subject, 'throughput', seconds)['ratio']:.4f} |", flush=True)
        added = medians("standard", "iteration", seconds)["added_ns"]
        print(
            f"\nadded to an iteration of an event loop: {added:.0f} ns. Load average {os.getloadavg()[0]:.2f}."
        )


if __name__ == "__main__":
    main()
