"""What a run may go on with: the same configuration, and other conditions with a warning."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from nas_osr.errors import UserError
from nas_osr.runs.resumption import check_same_config, warn_of_changes

RUN = Path("run")


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({"epochs": 3}, {"epochs": 3}),
        ({"epochs": 3, "threads": 1}, {"epochs": 3, "threads": 2}),
        ({"epochs": 3}, {"epochs": 3, "deterministic": False, "stop_rule": None}),
        ({"epochs": 3, "gone": ""}, {"epochs": 3}),
    ],
)
def test_equal_configurations_go_on(before: dict[str, Any], now: dict[str, Any]) -> None:
    check_same_config(RUN, before, now)


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        ({"epochs": 3}, {"epochs": 4}, "epochs was 3 at the start and is 4 now"),
        ({"stop_rule": None}, {"stop_rule": False}, "stop_rule was None at the start and is False now"),
        ({"epochs": 3}, {"epochs": 3, "deterministic": True}, "deterministic was None at the start and is True now"),
        ({"gone": 1}, {}, "gone was 1 at the start and is None now"),
        ({"a": {"b": 1, "c": 0.9}}, {"a": {"b": 1, "c": 0.5}}, r": a\.c was 0\.9 at the start and is 0\.5 now"),
        ({"a": {"b": {"c": 1}}}, {"a": {"b": {"d": 2, "c": 3}}}, r": a\.b\.c was 1 at the start and is 3 now"),
        ({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}}, r": a\.c was None at the start and is 2 now"),
        ({"a": {"b": 1}}, {"a": "published"}, r": a was {'b': 1} at the start and is 'published' now"),
    ],
)
def test_other_configurations_are_refused(before: dict[str, Any], now: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_same_config(RUN, before, now)
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    check_same_config(RUN, before, now, may_change=names)


def test_changed_conditions_are_told(caplog: pytest.LogCaptureFixture) -> None:
    before = {"device": "cpu", "cpu_threads": 2, "ranks": 1, "versions": {"torch": "1", "numpy": "2"}}
    with caplog.at_level(logging.WARNING):
        warn_of_changes(RUN, before, before)
        warn_of_changes(RUN, {"device": "cpu", "versions": {"torch": "1"}}, {**before, "versions": {"torch": "1"}})
    assert not caplog.records
    now = {"device": "cpu", "cpu_threads": 2, "ranks": 2, "versions": {"torch": "9", "numpy": "2"}}
    with caplog.at_level(logging.WARNING):
        warn_of_changes(RUN, before, now)
    assert "last bits: ranks was 1 and is 2, torch was 1 and is 9" in caplog.text
