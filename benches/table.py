"""The rows of the report: the title and the target of each figure, and its form in Markdown."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    Rounds = list[dict[str, float]]  # the figures of each round
    Results = dict[str, dict[str, Rounds]]  # by measure, then by subject


@dataclass(frozen=True)
class Cost:
    """A figure to compare with ddtrace's."""

    measure: str
    figure: str
    title: str
    unit: str
    max_ratio: float | None = None
    maximum: float | None = None


COSTS = (
    Cost("startup", "startup_ms", "CPU of import and enable", "ms", max_ratio=1 / 40),
    Cost("memory", "rss_kb", "resident memory added", "kB", max_ratio=1 / 20),
    Cost("tick", "thread_us", "CPU of a tick, the thread that ticks", "us", max_ratio=1 / 8),
    Cost("tick", "process_us", "CPU of a tick, the whole process", "us", max_ratio=1 / 8),
    Cost("instructions", "kinstructions", "user-space instructions of a tick", "k", max_ratio=1 / 20),
    Cost("syscalls", "syscalls", "system calls of a tick, the thread that ticks", "", maximum=6),
    Cost("syscalls", "syscalls_all_threads", "system calls meanwhile, all threads", ""),
    Cost("gc_callback", "gc_callback_ns", "added to a young collection", "ns"),
    Cost("fork", "fork_us", "added to a fork, in the parent", "us", maximum=60),
    Cost("wire", "datagrams", "datagrams of a tick", ""),
    Cost("wire", "bytes", "bytes of a tick", ""),
    Cost("wire", "samples", "samples of a tick", ""),
)

PAUSES = (("flush_pause", "flush(), 100 Hz"), ("automatic_pause", "automatic tick, 100 Hz"))
MAX_TIMES_NOOP = 1.5


def report(results: Results, peer: str) -> str:
    """Both tables and the system calls by name, for the measures that have results."""
    parts = (costs(results, peer), pauses(results, peer), calls_by_name(results))
    return "\n\n".join("\n".join(part) for part in map(list, parts) if part)


def costs(results: Results, peer: str) -> Iterator[str]:
    """The table of the figures that are compared with the peer's."""
    rows = [row for row in COSTS if row.measure in results]
    if rows:
        yield from heading("", "ours", peer, "ours / ddtrace", "target", "met")
    for row in rows:
        ours, theirs = (typical(results[row.measure][subject], row.figure) for subject in ("ours", "ddtrace"))
        ratio = ours / theirs if theirs else None
        if row.max_ratio is not None and ratio is not None:
            verdict = f"<= 1/{1 / row.max_ratio:.0f}", met(ratio <= row.max_ratio)
        elif row.maximum is not None:
            verdict = f"<= {row.maximum:g}", met(ours <= row.maximum)
        else:
            verdict = "", ""
        yield line(row.title, amount(ours, row.unit), amount(theirs, row.unit), proportion(ratio), *verdict)


def pauses(results: Results, peer: str) -> Iterator[str]:
    """The table of the main thread's pauses, compared with a no-op wake and with the peer's."""
    if not any(measure in results for measure, _ in PAUSES):
        return
    yield from heading(
        "longest pause per wake, us",
        "",
        "no wake-up",
        "no-op wake",
        "tick",
        "tick / no-op",
        "target",
        "met",
        "ours / ddtrace",
    )
    for measure, title in PAUSES:
        for share in ("p50", "p90"):
            for subject, rounds in results.get(measure, {}).items():
                idle, noop, tick, ratio = (
                    typical(rounds, f"{mode}_{share}") for mode in ("idle", "noop", "tick", "ratio")
                )
                verdict = ["", "", ""]
                if subject == "ours":
                    beside = tick / typical(results[measure]["ddtrace"], f"tick_{share}")
                    verdict = [f"<= {MAX_TIMES_NOOP}", met(ratio <= MAX_TIMES_NOOP), f"{beside:.2f}"]
                name = "ours" if subject == "ours" else peer
                cells = [amount(us, "") for us in (idle, noop, tick)]
                yield line(f"{title}, {share}", name, *cells, f"{ratio:.2f}", *verdict)


def calls_by_name(results: Results) -> Iterator[str]:
    """One line for each subject: the system calls of a tick."""
    for subject, rounds in results.get("syscalls", {}).items():
        names = [figure for figure in rounds[0] if figure.startswith("syscall ")]
        counts = ", ".join(f"{name.removeprefix('syscall ')} {rounds[0][name]:g}" for name in names)
        yield f"System calls of a tick, {subject}: {counts}."


def typical(rounds: Rounds, figure: str) -> float:
    """The median over the rounds."""
    return median(figures[figure] for figures in rounds)


def heading(*titles: str) -> Iterator[str]:
    """The first two lines of a Markdown table."""
    yield line(*titles)
    yield line(*["---"] * len(titles))


def line(*cells: str) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def amount(value: float, unit: str) -> str:
    """Three significant digits, and the unit."""
    return f"{value:.0f} {unit}".rstrip() if abs(value) >= 100 else f"{value:.3g} {unit}".rstrip()


def proportion(ratio: float | None) -> str:
    """A ratio and its reciprocal: 0.018 is 1/56."""
    if ratio is None:
        return ""
    return f"{ratio:.2g} (1/{1 / ratio:.0f})" if 0 < ratio < 0.5 else f"{ratio:.2g}"


def met(is_met: bool) -> str:
    """The verdict."""
    return "yes" if is_met else "**no**"
