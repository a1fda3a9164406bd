"""Schedules that end in time, on a clock that is set by hand."""

from __future__ import annotations

from typing import Any

import pytest

from nas_osr.training import pace
from nas_osr.training.pace import Pace
from nas_osr.training.recipes import make_recipe

EPOCHS, STEPS = 20, 5


def run(seconds: list[float], ends: float, monkeypatch: pytest.MonkeyPatch, stop: int = EPOCHS) -> list[list[float]]:
    """The learning rates of each epoch of a training whose epochs take so long; a new Pace takes over at `stop`."""
    usual = make_recipe("fast", {}).factor(EPOCHS)
    now, history = 100.0, []
    monkeypatch.setattr(pace.time, "monotonic", lambda: now)
    made, rates = Pace(usual, EPOCHS, 100.0 + ends), []
    for epoch in range(EPOCHS):
        if epoch == stop:
            made = Pace(usual, EPOCHS, 100.0 + ends)
        if made.over(history):
            break
        rates.append([made(epoch + step / STEPS) for step in range(STEPS)])
        history.append({"share": made.next_share})
        now += seconds[epoch]
    assert history[-1]["share"] == 1.0
    return rates


def usual_rates() -> list[Any]:
    usual = make_recipe("fast", {}).factor(EPOCHS)
    return [pytest.approx([usual(epoch + step / STEPS) for step in range(STEPS)]) for epoch in range(EPOCHS)]


def test_with_time_enough_it_is_the_schedule_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run([1.0] * EPOCHS, 20.5, monkeypatch) == usual_rates()
    assert run([1.0] * EPOCHS, 20.5, monkeypatch, stop=7) == usual_rates()


def test_a_machine_that_becomes_slow_still_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = run([1.0] * 8 + [3.0] * 12, 20.0, monkeypatch)
    assert 8 + 3 * (len(rates) - 8) <= 20 + 3  # an epoch that has begun is ended
    assert rates[:8] == usual_rates()[:8]
    falling = [rate for epoch in rates[4:] for rate in epoch]
    assert falling == sorted(falling, reverse=True) and 0 < falling[-1] < 0.15


def test_after_the_deadline_one_epoch_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(run([50.0] * EPOCHS, 20.0, monkeypatch)) == 2


def test_a_slow_moment_leaves_out_little(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(run([1.0] * 5 + [4.0] + [1.0] * 14, 24.0, monkeypatch)) >= 18
