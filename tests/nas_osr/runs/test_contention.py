"""Whether a run says that other programs keep it waiting for a processor."""

from __future__ import annotations

import time

import pytest

from nas_osr.runs import contention
from nas_osr.runs.contention import Contention, Turns, turns
from nas_osr.runs.progress import ProgressReporter

PLACE = {"device": "cpu", "device_name": None, "cpu_threads": 2, "precision": "32-true"}


@pytest.fixture
def machine(monkeypatch):
    """A clock and a count of turns that a test sets."""
    state = {"now": 0.0, "turns": Turns(100.0, 100.0)}
    monkeypatch.setattr(contention, "turns", lambda: state["turns"])
    monkeypatch.setattr(contention.time, "monotonic", lambda: state["now"])
    return state


def after(machine, seconds, ran, waited):
    machine["now"] += seconds
    before = machine["turns"]
    machine["turns"] = Turns(before.ran + ran, before.waited + waited)


@pytest.mark.skipif(turns() is None, reason="the system does not count turns")
def test_the_turns_of_this_process_are_read():
    before = turns()
    start = time.thread_time()
    while time.thread_time() - start < 0.2:
        pass
    assert 0.15 < turns().ran - before.ran < 5.0


def test_all_threads_count_and_broken_files_do_not(tmp_path):
    for thread, text in {"1": "2000000000 500000000 7\n", "2": "1000000000 0 1\n", "3": "", "4": "a b c\n"}.items():
        (tmp_path / thread).mkdir()
        (tmp_path / thread / "schedstat").write_text(text)
    (tmp_path / "5").mkdir()
    assert turns(tmp_path) == Turns(3.0, 0.5)
    assert turns(tmp_path / "5") is None


def test_a_crowded_processor_is_told_of_once(machine):
    look = Contention(2)
    after(machine, 19, 1, 30)
    assert look.warning() is None  # too early
    after(machine, 2, 9, 30)
    assert look.warning() == (
        "other programs use the processor: the run waits for it 86% of the time; beside them --threads 1 is faster"
    )
    after(machine, 100, 10, 100)
    assert look.warning() is None


@pytest.mark.parametrize(("ran", "waited"), [(40, 0), (21, 20), (1, 3)])
def test_a_run_that_has_what_it_needs_or_computes_elsewhere_says_nothing(machine, ran, waited):
    look = Contention(2)
    after(machine, 25, ran, waited)
    assert look.warning() is None


def test_each_look_is_at_what_has_come_since_the_last(machine):
    look = Contention(1)
    after(machine, 25, 25, 0)
    assert look.warning() is None
    after(machine, 25, 8, 12)
    assert look.warning() == "other programs use the processor: the run waits for it 60% of the time"


def test_threads_that_have_ended_take_their_turns_along(machine):
    look = Contention(2)
    after(machine, 25, -50, -90)
    assert look.warning() is None


def test_a_system_that_does_not_say_is_left_alone(machine):
    machine["turns"] = None
    look = Contention(2)
    machine["now"] = 1000.0
    assert look.warning() is None


def test_the_line_comes_in_the_middle_of_an_epoch(machine, capsys):
    with ProgressReporter(2, title="split-0") as reporter:
        reporter.begin(PLACE)
        after(machine, 25, 5, 35)
        reporter.step(1, 100)
        reporter.step(2, 100)
    assert capsys.readouterr().err.splitlines() == [
        "split-0  computed on cpu, 2 threads in 32-true",
        "split-0  warning: other programs use the processor: the run waits for it 88% of the time; "
        "beside them --threads 1 is faster",
    ]
