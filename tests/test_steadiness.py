"""The standard level under random work: what it holds neither grows nor leaks."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from serving import ROOT

SOAK = ROOT / "benches" / "soak.py"
# More, for longer: `python benches/soak.py 50000`.
TICKS = 10_000


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_and_descriptors_stay_as_they_are() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", SOAK, str(TICKS)],
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert (done.returncode, done.stderr) == (0, "")
    tenths = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(tenths) == 10
    assert len({tenth["descriptors"] for tenth in tenths}) == 1
    # What is made once is there by then.
    assert tenths[-1]["rss"] - tenths[2]["rss"] < 512 << 10
