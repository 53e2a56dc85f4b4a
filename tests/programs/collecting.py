"""Lets the interpreter collect, and asks it to, with a flush after each; prints how many were automatic.

Nothing that is allocated here stays, so that collections of every generation are seen.
"""

from __future__ import annotations

import gc
import json

from runtime_metrics import RuntimeMetrics


def collections() -> int:
    """How many there have been."""
    return sum(generation["collections"] for generation in gc.get_stats())


def lists() -> None:
    """Containers that stay for a while."""
    kept: list[object] = []
    for number in range(100_000):
        kept.append([])
        if number % 5000 == 0:
            kept.clear()


def dropped() -> None:
    """Structures that replace each other, so that many containers are freed at once."""
    for number in range(1000):
        structure: list[object] = [[] for _ in range(2500 + number % 700)]
        assert structure


def in_c() -> None:
    """Structures that a function of C makes, and that nobody keeps."""
    text = json.dumps([{"a": [1, 2, {}]}] * 1000)
    for _ in range(200):
        assert len(json.loads(text)) == 1000


def flush() -> None:
    """Sends what was counted."""
    assert RuntimeMetrics.flush()


if __name__ == "__main__":
    RuntimeMetrics.enable(flush_interval=3600, level="detailed")
    flush()
    automatic = {}
    for name, allocate in {"lists": lists, "dropped": dropped, "in C": in_c}.items():
        before = collections()
        allocate()
        automatic[name] = collections() - before
    flush()
    for number in range(25):
        gc.collect(number % 3)
    flush()
    gc.disable()
    # More than lets the interpreter collect.
    many: list[object] = [[] for _ in range(20_000)]
    for _ in range(5):
        gc.collect()
    flush()
    many.clear()
    gc.enable()
    for _ in range(10):
        lists()
        gc.collect()
    flush()
    RuntimeMetrics.disable()
    print(json.dumps(automatic))
