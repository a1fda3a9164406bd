"""`nas-osr tabulate` and `nas-osr table` on digits, from one end to the other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from nas_osr.cli.main import main
from nas_osr.strategies import tabulate
from nas_osr.strategies.table import read_table
from nas_osr.sweeps.executor import Job, Result

ROOT = Path(__file__).resolve().parents[3]
COMMAND = [
    "tabulate", "tiny", "--protocol=digits", "--layers=3", "--channels=16", "--operations=skip,conv", "--epochs=2",
    "--limit_per_class=16", "--batch_size=16", "--objective=cross_entropy", "--device=cpu", "--threads=1", "--quiet",
    "--seeds=1",
]  # fmt: skip


def test_a_table_is_made_filled_up_and_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "table"
    assert main([*COMMAND, "--rotations=1", "--sample=2", "--out", str(out)]) == 0
    sample = read_table(out)
    assert len(sample.rows) == 2 and not sample.header["complete"] and sample.header["rules"] == ["mls", "msp"]
    assert main(["table", str(out)]) == 0
    assert capsys.readouterr().out.endswith("a sample of its space: evolution, nsga\n")

    # all of the space, with more rotations: only what is missing is trained, also after an interruption
    made: list[tuple[str, int]] = []
    train = tabulate.TableBench.train

    def note(self, plan, architecture, images, judging, names):  # type: ignore[no-untyped-def]
        made.append(names)
        if len(made) == 4:
            raise KeyboardInterrupt
        return train(self, plan, architecture, images, judging, names)

    monkeypatch.setattr(tabulate.TableBench, "train", note)
    grown = [*COMMAND, "--rotations=2", "--out", str(out), "--resume=auto"]
    assert main(grown) == 130
    assert main(grown) == 0
    table = read_table(out)
    assert table.header["complete"] and len(table.header["rotations"]) == 2
    assert len(made) - 1 == 3 * len(table.rows) - 2 * 2
    for row in sample.rows:
        (same,) = [other for other in table.rows if other["fingerprint"] == row["fingerprint"]]
        assert same["true"] == row["true"]
        assert all(same["pas"]["mls"][score][:1] == row["pas"]["mls"][score] for score in ("f1", "auroc"))
    assert (0 <= table.true("mls", "auroc")).all() and (table.pas("msp", "accuracy") <= 1).all()
    assert table.true("mls", "auroc").std() > 0
    scores = [[row[name] for name in ("synflow", "naswot", "zico")] for row in table.rows]
    assert all(isinstance(score, float) for row in scores for score in row)
    assert len({tuple(row) for row in scores}) == len(table.rows)

    capsys.readouterr()
    assert main(["table", str(out), "--seeds=5", "--costs=1,2", "--strategy=random,evolution", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["architectures"] == len(table.rows) and {*found["strategies"]} == {"random", "evolution"}
    assert {"synflow", "zico", "parameters"} <= found["correlations"].keys()
    assert found["strategies"]["random"]["2"]["regret"][0] <= found["strategies"]["random"]["1"]["regret"][0] + 0.2


def test_what_cannot_be_judged_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An AUROC without unknown images has no value, and is no zero."""
    for name in ("ant", "bee", "cat"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(20):
            Image.new("L", (16, 16), 10 * number).save(tmp_path / "pictures" / name / f"{number}.png")
    command = ["tabulate", "tiny", "--protocol=folder", f"--data_dir={tmp_path / 'pictures'}", "--quiet"]
    assert main([*command, "--sample=1", "--out", str(tmp_path / "table")]) == 2
    assert "no class is unknown, so that there is nothing to judge by" in capsys.readouterr().err
    assert not (tmp_path / "table").exists()


def test_several_at_a_time_end_as_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs that an interruption ends are no mistakes."""

    class Interrupted:
        def map(self, function: Any, jobs: Iterator[Job], *_: Any) -> Iterator[Result]:
            yield Result(next(jobs), error="exit code 130", interrupted=True)
            raise KeyboardInterrupt

    monkeypatch.setattr(tabulate, "open_executor", lambda *_: Interrupted())
    assert main([*COMMAND, "--rotations=0", "--sample=2", "--jobs=2", "--out", str(tmp_path / "table")]) == 130


def figures(out: Path) -> list[dict[str, Any]]:
    """What a table says, but for how long it took."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in read_table(out).rows]


def test_one_alone_of_those_that_share_a_folder_makes_the_same(tmp_path: Path) -> None:
    few = [*COMMAND, "--rotations=0", "--sample=1", "--epochs=1"]
    assert main([*few, "--out", str(tmp_path / "alone")]) == 0
    for _ in range(2):  # one that comes late finds it made
        assert main([*few, "--backend=shared", "--out", str(tmp_path / "shared")]) == 0
    assert figures(tmp_path / "shared") == figures(tmp_path / "alone")
    assert not [*(tmp_path / "shared").glob("*.claim")]


@pytest.mark.slow
def test_processes_share_a_table_and_one_is_killed(tmp_path: Path) -> None:
    """The one that keeps the table is killed with its training; the other takes both up."""
    few, out = [*COMMAND, "--rotations=1", "--sample=3"], tmp_path / "shared"
    assert main([*few, "--out", str(tmp_path / "alone")]) == 0
    command = [sys.executable, "-m", "nas_osr", *few, "--backend=shared", "--out", str(out)]
    begun = [subprocess.Popen(command, cwd=ROOT, start_new_session=True) for _ in range(2)]
    try:
        while len([*out.glob("trial-*.claim")]) < 2:  # an architecture each
            time.sleep(0.1)
            assert all(process.poll() is None for process in begun)
        number = str((out / ".lock").stat().st_ino)
        locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        keeper = next(int(line[4]) for line in locks if line[1] == "FLOCK" and line[5].endswith(f":{number}"))
        children = Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
        for process in [keeper, *map(int, children)]:
            os.kill(process, signal.SIGKILL)
        (other,) = (process for process in begun if process.pid != keeper)
        assert other.wait(timeout=600) == 0
    finally:
        for process in begun:
            process.kill()
            process.wait()
    assert figures(out) == figures(tmp_path / "alone")
    assert not [*out.glob("*.claim")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["tabulate", "small", "--protocol=digits", "--layers=12", "--dry_run"],
            "name how many to train with --sample",
        ),
        (["tabulate", "tiny", "--protocol=digits", "--sample=400", "--dry_run"], "leave --sample out"),
        (["tabulate", "tiny", "--protocol=digits", "--rotations=4", "--dry_run"], "rotations must be at most 3"),
        (["tabulate", "tiny", "--protocol=digits", "--rules=oracle", "--dry_run"], "oracle"),
        (["table", "nowhere"], "no such table"),
        (["table", "nowhere", "--costs=4,2"], "costs must rise, got 4, 2"),
        (["table", "nowhere", "--strategy_config.criterion=auroc"], "criterion is the same for all strategies here"),
        (["table", "nowhere", "--strategy_config.halving.rotations=2"], "rotations is the same for all strategies"),
        (["table", "nowhere", "--strategy_config.evolution=3"], "evolution is a strategy: name a setting of it"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err.strip()
    assert message in said and "\n" not in said


def test_a_dry_run_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tabulate", "tiny", "--protocol=digits", "--dry_run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    plan, seconds = found["would_tabulate"], found["seconds"]
    assert plan["architectures"] == 171 and plan["trainings"] == 171 * 5
    assert seconds.keys() == {"true", "pas"} and min(seconds.values()) > 0
    few = ["--sample=4", "--seeds=1", "--rotations=0", "--epochs=1", "--limit_per_class=20"]
    assert main(["tabulate", "tiny", "--protocol=digits", *few, "--dry_run"]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("# one after the other, here: about") and said.endswith(", and 0 seconds as in a search")
