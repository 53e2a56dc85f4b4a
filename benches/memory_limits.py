"""What becomes of a program at a memory limit: alone, and with its metrics enabled. README.md explains the table.

Each run is a fresh process that fills its memory with small objects until MemoryError, keeps them, lives on, and then
lets go of them. It has survived if it ends by itself, and then with the library its metrics must have come again.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

PROGRAM = Path(__file__).parents[1] / "tests" / "programs" / "at_memory_limit.py"
LIMITS = ["AS before", "AS after", "DATA before", "DATA after"]
ARENAS = ["", "2"]
ACTIONS = [
    "tick",
    "flush",
    "snapshot",
    "enable",
    "fork",
    "exit",
    "thread forks",
    "thread calls",
    "thread disables",
]


def run(python: str, limit: str, arenas: str, action: str, library: str) -> str:
    """Runs one program to its end; returns "" if all is well, else what became of it."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("DD_", "MALLOC_"))
    }
    if arenas:
        environment["MALLOC_ARENA_MAX"] = arenas
    command = [python, str(PROGRAM), *limit.split(), action, library]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
    except subprocess.TimeoutExpired:
        return "hangs"
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines() or [""]
    return f"status {done.returncode}: {lines[-1] if done.returncode > 0 else lines[0]}"


def main() -> int:
    """Prints the table, and what went wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "pythons", nargs="+", metavar="PYTHON", help="interpreters that can import runtime_metrics"
    )
    parser.add_argument("--runs", type=int, default=20, help="runs of each cell (20)")
    parser.add_argument("--workers", type=int, default=2, help="how many run side by side (2)")
    parser.add_argument("--limits", nargs="+", choices=LIMITS, default=LIMITS)
    parser.add_argument(
        "--arenas", nargs="+", choices=ARENAS, default=ARENAS, help="MALLOC_ARENA_MAX; empty: unset"
    )
    parser.add_argument("--actions", nargs="+", choices=ACTIONS, default=ACTIONS)
    parser.add_argument("--libraries", nargs="+", choices=["without", "with"], default=["without", "with"])
    options = parser.parse_args()
    is_worse = False
    reasons: Counter[tuple[str, str]] = Counter()
    print(f"| python | limit | arenas | {' | '.join(options.actions)} |")
    print(f"|---|---|---|{'---|' * len(options.actions)}")
    with ThreadPoolExecutor(options.workers) as workers:
        for python, limit, arenas in itertools.product(options.pythons, options.limits, options.arenas):
            cells = []
            for action in options.actions:
                lost = {}
                for library in options.libraries:
                    once = partial(run, python, limit, arenas, action, library)
                    futures = [workers.submit(once) for _ in range(options.runs)]
                    ends = [future.result() for future in futures]
                    lost[library] = sum(end != "" for end in ends)
                    reasons.update((f"{limit}, {action}, {library}", end) for end in ends if end)
                is_worse |= lost.get("with", 0) > lost.get("without", 0)
                cells.append(" / ".join(f"{options.runs - count}" for count in lost.values()))
            print(f"| {python} | {limit} | {arenas or 'unset'} | {' | '.join(cells)} |", flush=True)
    for (cell, reason), count in reasons.most_common():
        print(f"{count} x {cell}: {reason}")
    return int(is_worse)


if __name__ == "__main__":
    sys.exit(main())
