"""What the standard level costs a process in ten seconds, compared with ddtrace's RuntimeMetrics in the same run.

    python benches/levels.py OURS_PYTHON DDTRACE_PYTHON [--level standard] [--seconds 10] [--rounds 3]

Each PYTHON is that of a virtual environment in which one of the two is installed. Linux only.
benches/README.md explains each figure.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from host import environment, exclusive, start_sink

if TYPE_CHECKING:
    from collections.abc import Iterator

    Figures = dict[str, float]

HERE = Path(__file__).parent

# What runs side by side: processes that wait do not disturb each other.
GROUPS = (
    [("idle", "ddtrace"), ("idle", "ours"), ("large", "ddtrace"), ("large", "ours")],
    [("busy", "empty")],
    [("busy", "ddtrace")],
    [("busy", "ours")],
    [("server", "ddtrace")],
    [("server", "ours")],
)
WITH_LOOP_MS = 4.0  # the most that a process with a running event loop may pay in ten seconds
MIN_THROUGHPUT = 0.995


def main() -> None:
    """Takes the figures round after round, and prints their medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ours", metavar="OURS_PYTHON", type=os.path.abspath)
    parser.add_argument("ddtrace", metavar="DDTRACE_PYTHON", type=os.path.abspath)
    parser.add_argument("--level", default="standard", help="of ours (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=int, default=10, help="of each process, a multiple of ten (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    pythons = {"ours": chosen.ours, "ddtrace": chosen.ddtrace, "empty": chosen.ours}
    with exclusive(__file__):
        settings = {
            "DD_AGENT_HOST": "127.0.0.1",
            "DD_DOGSTATSD_PORT": str(start_sink()),
            "DD_RUNTIME_METRICS_LEVEL": chosen.level,
        }

        def figures(workload: str, subject: str, seconds: float) -> Figures:
            words = [subject, workload, str(seconds)]
            command = [pythons[subject], str(HERE / "workloads.py"), *words]
            done = subprocess.run(
                command, env=environment(**settings), capture_output=True, text=True, check=False
            )
            if done.returncode:
                sys.exit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr[-2000:]}")
            found: Figures = json.loads(done.stdout.splitlines()[-1])
            return found

        def rounds() -> Iterator[tuple[tuple[str, str], Figures]]:
            for _ in range(chosen.rounds):
                for group in GROUPS:
                    with ThreadPoolExecutor(len(group)) as pool:
                        workloads, subjects = zip(*group, strict=True)
                        taken = pool.map(figures, workloads, subjects, [chosen.seconds] * len(group))
                        yield from zip(group, taken, strict=True)

        found: dict[tuple[str, str], list[Figures]] = {}
        for which, one in rounds():
            found.setdefault(which, []).append(one)
        print_costs(found)
        ratio = figures("throughput", "ours", 4 * chosen.rounds)["ratio"]
        verdict = "yes" if ratio >= MIN_THROUGHPUT else "**no**"
        print(
            f"\nRequests/s, divided by those without it: {ratio:.4f}; at least {MIN_THROUGHPUT}: {verdict}."
        )
        added = figures("iteration", "ours", 2 * chosen.rounds)["added_ns"]
        print(f"Added to an iteration of an event loop: {added:.0f} ns.")
        print(
            f"{chosen.rounds} rounds of {chosen.seconds} s, load average at the end {os.getloadavg()[0]:.2f}."
        )


def print_costs(found: dict[tuple[str, str], list[Figures]]) -> None:
    """A line for each workload and subject, with the bound of ours."""
    medians = {
        which: {name: median(each[name] for each in rounds) for name in rounds[0]}
        for which, rounds in found.items()
    }
    print(
        "| workload | subject | CPU of its threads in 10 s, ms | of each round | bound | met "
        "| longest pause of a second, us: p50 | p99 |\n" + "| --- " * 8 + "|"
    )
    for (workload, subject), figures in medians.items():
        ddtraces = medians[workload, "ddtrace"]["cpu_ms"] if subject == "ours" else 0
        bound = ddtraces if workload in ("idle", "busy") else WITH_LOOP_MS
        is_met = "yes" if figures["cpu_ms"] <= bound else "**no**"
        verdict = [f"{bound:.2f}", is_met] if subject == "ours" else ["", ""]
        each = " ".join(f"{one['cpu_ms']:.2f}" for one in found[workload, subject])
        pauses = [f"{figures[name]:.0f}" if name in figures else "" for name in ("p50_us", "p99_us")]
        cells = [workload, subject, f"{figures['cpu_ms']:.2f}", each, *verdict, *pauses]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
