"""A run is killed at every event of its files, in turn; it then goes on, and leaves what an undisturbed one leaves."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # and so on the path of the processes

import harness  # noqa: E402
from processes import finish, launch  # noqa: E402

pytestmark = pytest.mark.slow

KILLED = 137  # how ckpt-chaos ends a process
# before an event; in the middle of writing a file; before it, and what was not flushed to the disk is lost
MODES = ("before", "torn", "unsynced")
RUNS = {
    "search": [*harness.SCENARIOS["search-darts"], "--checkpoint_minutes=0"],
    "retrain": [*harness.SCENARIOS["retrain-cac"], "--checkpoint_minutes=0"],
}


def crash(out: Path, events: Path, **where: Any) -> dict[str, Any]:
    """What arms a process: to log the events of files under `out`, and to end at one."""
    return {"watch_dir": str(out), "log_path": str(events), "torn_python": True, **where}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", RUNS)
def test_every_event_of_a_file_may_be_the_last(name: str, mode: str, tmp_path: Path) -> None:
    log, events, whole = tmp_path / "log", tmp_path / "events", tmp_path / "whole"
    assert finish(launch([*RUNS[name], f"--out={whole}"], log, crash=crash(whole, events))) == 0, log.read_text()
    lines = [line.split("\t") for line in events.read_text().splitlines()]
    # a file that is appended to would be cut in half as a whole, with what was flushed long ago; what a crash really
    # leaves, a last line that is cut short, is in tests/nas_osr/runs/test_run_folder.py
    written = [line for line in lines if mode != "torn" or (line[3] == "1" and not line[2].endswith(".jsonl"))]
    wanted = [(int(number), kind, file) for number, kind, file, _ in written]
    assert len(wanted) > 10
    wrong = {}
    for number, kind, file in wanted:
        out = tmp_path / "out"
        arguments = [*RUNS[name], f"--out={out}"]
        killed = finish(launch(arguments, log, crash=crash(out, events, crash_at=number, mode=mode)))
        resumed = finish(launch([*arguments, "--resume=auto"], log))
        found = harness.differences(whole, out) if resumed == 0 else [log.read_text().splitlines()[-1]]
        if killed != KILLED or found:
            wrong[f"{number} {kind} {file}"] = [killed, resumed, found[:3]]
        shutil.rmtree(out, ignore_errors=True)
    print(json.dumps({"run": name, "mode": mode, "events": len(wanted), "wrong": wrong}))
    assert wrong == {}
