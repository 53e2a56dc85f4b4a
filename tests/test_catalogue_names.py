"""Every metric of the catalogue has a test that compares it with an independent source."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
from catalogue_names import ALL_NAMES, CHECKED_BY, checks


def test_every_metric_is_compared_with_an_independent_source() -> None:
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        if re.search(r"^@checks\(", path.read_text(), re.MULTILINE):
            importlib.import_module(path.stem)
    assert [name for name in ALL_NAMES if not CHECKED_BY[name]] == [], (
        "Nothing checks these metrics. For each, write a test that compares it with a source of the same fact other"
        ' than ours, and mark it @checks("NAME"): in tests/test_oracles.py, or for Gunicorn\'s in'
        " tests/test_gunicorn_requests.py or tests/test_gunicorn_workers.py"
    )


def test_a_name_that_is_not_in_the_catalogue_cannot_be_checked() -> None:
    with pytest.raises(ValueError, match=r"runtime\.python\.mem\.rrs"):
        checks("runtime.python.mem.rss", "runtime.python.mem.rrs")
