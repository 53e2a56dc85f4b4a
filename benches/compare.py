"""What this library costs its process, compared with ddtrace's RuntimeMetrics in the same run on the same machine.

    python benches/compare.py OURS_PYTHON DDTRACE_PYTHON [--rounds 3] [--json FILE] [MEASURE ...]

Each PYTHON is that of a virtual environment in which one of the two is installed. Linux only.
benches/README.md explains each figure.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from host import Host, exclusive, start_sink
from measures import MEASURES
from table import report

if TYPE_CHECKING:
    from table import Results


def main() -> None:
    """Takes the measures and prints the report."""
    chosen = arguments()
    with exclusive(__file__):
        compare(chosen)


def compare(chosen: argparse.Namespace) -> None:
    """Runs the comparison and prints the report."""
    sink = start_sink()
    hosts = [Host("ours", chosen.ours, sink), Host("ddtrace", chosen.ddtrace, sink)]
    ours, ddtrace = (host.packages() for host in hosts)
    if ours["implementation"] != ddtrace["implementation"]:
        sys.exit(f"The two Pythons differ: {ours['implementation']} and {ddtrace['implementation']}.")
    load_before = os.getloadavg()[0]
    wanted = chosen.measures or list(MEASURES)
    obstacles = {name: MEASURES[name].obstacle() for name in wanted}
    left_out = [f"Left out: {name}, because {why}." for name, why in obstacles.items() if why]
    results = rounds(hosts, [name for name in wanted if not obstacles[name]], chosen.rounds)
    context = (
        f"runtime-metrics {ours['runtime-metrics']}, ddtrace {ddtrace['ddtrace']}, {ours['implementation']}, "
        f"{platform.system()} {platform.release()} {platform.machine()}, {os.cpu_count()} CPUs, medians of "
        f"{chosen.rounds} rounds, load average {load_before:.2f} before and {os.getloadavg()[0]:.2f} after."
    )
    print("\n\n".join([report(results, f"ddtrace {ddtrace['ddtrace']}"), *left_out, context]))
    if chosen.json:
        record = {"context": context, "left_out": left_out, "results": results}
        chosen.json.write_text(json.dumps(record, indent=2))


def arguments() -> argparse.Namespace:
    """Parses the command line."""
    verbatim = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=verbatim)
    parser.add_argument("ours", metavar="OURS_PYTHON", type=os.path.abspath)
    parser.add_argument("ddtrace", metavar="DDTRACE_PYTHON", type=os.path.abspath)
    parser.add_argument("measures", metavar="MEASURE", nargs="*", help=f"default: {', '.join(MEASURES)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", metavar="FILE", type=Path, help="the figures of each round")
    chosen = parser.parse_intermixed_args()
    unknown = sorted(set(chosen.measures) - set(MEASURES))
    if unknown:
        parser.error(f"no such measure: {', '.join(unknown)}; known are {', '.join(MEASURES)}")
    if sys.platform != "linux":
        parser.error("the measures read /proc and pin threads to cores: Linux only")
    return chosen


def rounds(hosts: list[Host], measures: list[str], count: int) -> Results:
    """Takes the measures round after round; within a round each measure takes the subjects in turn."""
    results: Results = {measure: {host.subject: [] for host in hosts} for measure in measures}
    for number in range(1, count + 1):
        for measure in measures:
            for host in hosts:
                figures = MEASURES[measure].take(host)
                results[measure][host.subject].append(figures)
                rounded = {name: round(value, 2) for name, value in figures.items()}
                print(f"round {number}, {measure}, {host.subject}: {rounded}", file=sys.stderr, flush=True)
    return results


if __name__ == "__main__":
    main()
