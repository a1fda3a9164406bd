"""Ranges of splits and seeds as users write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas_osr.configuration import parse_range
from nas_osr.errors import UserError


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5)), min_size=1, max_size=4))
def test_ranges_read_as_they_are_written(ranges: list[tuple[int, int]]) -> None:
    text = ",".join(f"{start}-{start + length}" if length else str(start) for start, length in ranges)
    expected = [number for start, length in ranges for number in range(start, start + length + 1)]
    if len(set(expected)) < len(expected):
        with pytest.raises(UserError, match="twice"):
            parse_range("splits", text)
    else:
        assert parse_range("splits", text) == expected


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "1..3", "1,,2", "3-1"])
def test_bad_ranges_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="splits must look like"):
        parse_range("splits", text)
