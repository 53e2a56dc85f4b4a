"""A small service that reports its runtime metrics while it works.

    runtime-metrics watch                 # in one terminal
    python examples/service.py            # in another

The address comes from the environment (DD_AGENT_HOST, DD_DOGSTATSD_URL, ...); by default it is this host.
"""

from __future__ import annotations

import queue
import threading

from runtime_metrics import RuntimeMetrics


def count_primes(below: int) -> int:
    """Counts primes slowly, to have work to do."""
    return sum(
        all(number % divisor for divisor in range(2, int(number**0.5) + 1)) for number in range(2, below)
    )


def work(jobs: queue.Queue[int | None]) -> None:
    """Does the jobs until there are no more."""
    while (job := jobs.get()) is not None:
        print(f"{count_primes(job)} primes below {job}")


def main() -> None:
    """Works through some jobs with three threads."""
    RuntimeMetrics.enable(flush_interval=1.0, service="primes", env="example", tags={"team": "numbers"})
    jobs: queue.Queue[int | None] = queue.Queue()
    workers = [threading.Thread(target=work, args=(jobs,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for job in [*range(20_000, 200_000, 20_000), None, None, None]:
        jobs.put(job)
    for worker in workers:
        worker.join()

    resident = RuntimeMetrics.snapshot()["runtime.python.mem.rss"]
    print(f"{resident / 1e6:.0f} MB resident")


if __name__ == "__main__":
    main()
