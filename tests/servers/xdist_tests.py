"""Tests that pytest-xdist gives to its workers."""

from __future__ import annotations

import pytest
from jobs import work


@pytest.mark.parametrize("number", range(6))
def test_that_works(number: int) -> None:
    """Works."""
    assert number >= 0
    work()
