"""Tests that pytest-xdist gives to its workers."""

from __future__ import annotations

import pytest
from jobs import work


@pytest.mark.parametrize("number", range(12))
def test_that_works(number: int) -> None:
    """Works."""
    assert number >= 0
    work(0.2)
