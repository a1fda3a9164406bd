"""What a long computation shows, on a terminal and elsewhere."""

from __future__ import annotations

import os
import pty
import select

import pytest

from nas_osr.runs.progress import ProgressReporter

RECORD = {
    "epoch": 0,
    "phase": "search",
    "losses": {"ce": 1.0, "kl": 0.25, "architecture/ce": 7.0},
    "f1": 0.5,
    "auroc": None,
}
TIMING = {"seconds": 90_000.0, "training_seconds": 2.0, "images": 1000}


def test_one_plain_line_an_epoch(capsys):
    with ProgressReporter(2) as reporter:
        reporter.epoch(RECORD, TIMING)
        reporter.epoch({**RECORD, "epoch": 1}, TIMING)
    out, err = capsys.readouterr()
    assert out == ""
    first, last = err.splitlines()
    assert first == "epoch 1/2  search  loss 1.250  f1 0.5000  500 images/s  1 day, 1:00:00 left"
    assert last.endswith("done")


def test_the_time_left_counts_what_comes_afterwards(capsys):
    with ProgressReporter(2, title="split-0", later=2) as reporter:
        reporter.epoch(RECORD, {**TIMING, "seconds": 60.0})
        reporter.epoch({**RECORD, "epoch": 1}, {**TIMING, "seconds": 60.0})
    first, last = capsys.readouterr().err.splitlines()
    assert first.endswith("0:01:00 left  0:03:00 in all")
    assert last.endswith("done  0:02:00 in all")


def test_a_long_epoch_says_how_far_it_is_once_a_minute(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("nas_osr.runs.progress.time.monotonic", lambda: now[0])
    with ProgressReporter(3, title="split-0") as reporter:
        for step in range(1, 11):
            now[0] += 15.0
            reporter.step(step, 20)
        reporter.epoch(RECORD, TIMING)
        reporter.step(1, 20)
    with ProgressReporter(3, quiet=True) as quiet:
        for step in range(1, 11):
            now[0] += 100.0
            quiet.step(step, 20)
    assert [line for line in capsys.readouterr().err.splitlines() if "step" in line] == [
        "split-0  epoch 1/3  step 4/20  0:04:00 left in it", "split-0  epoch 1/3  step 8/20  0:03:00 left in it",
    ]  # fmt: skip


def test_a_warning_is_shown_once_by_kind(capsys):
    def with_warnings(epoch, **warnings):
        return {**RECORD, "epoch": epoch, "monitors": {"warnings": warnings}}

    with ProgressReporter(3, title="split-0") as reporter:
        reporter.epoch(with_warnings(0), TIMING)
        reporter.epoch(with_warnings(1, skips="2 of 6 cells"), TIMING)
        reporter.epoch(with_warnings(2, skips="3 of 6 cells", loss="tenfold"), TIMING)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "warning" in line] == [
        "split-0  warning: 2 of 6 cells", "split-0  warning: tenfold",
    ]  # fmt: skip
    assert lines.index("split-0  warning: 2 of 6 cells") == 2


def test_quiet_is_quiet(capsys):
    with ProgressReporter(2, quiet=True) as reporter:
        reporter.epoch({**RECORD, "monitors": {"warnings": {"skips": "2 of 6 cells"}}}, TIMING)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_the_line_too(monkeypatch, capfd):
    master, slave = pty.openpty()
    with open(slave, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        monkeypatch.setenv("COLUMNS", "120")
        with ProgressReporter(2) as reporter:
            reporter.epoch(RECORD, TIMING)
            reporter.step(3, 7)
        terminal.flush()
        shown = b""
        while not (b"loss 1.250" in shown and b"step 3/7" in shown) and select.select([master], [], [], 10)[0]:
            shown += os.read(master, 65536)
    os.close(master)
    assert b"loss 1.250" in shown and b"epoch 2/2  step 3/7" in shown


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
