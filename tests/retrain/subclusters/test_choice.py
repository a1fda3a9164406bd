"""Choosing the subclusters of a GMVAE: the recommendation by hand, and the command on a few digits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nas_osr.cli.main import main
from nas_osr.data.dataset import OpenSetData, load_data
from nas_osr.data.protocols import make_protocol
from nas_osr.data.sources.base import Source
from nas_osr.retrain.subclusters.choice import class_data, plan_subclusters
from nas_osr.retrain.subclusters.curves import recommend
from nas_osr.retrain.subclusters.subclusters_request import SubclustersRequest
from nas_osr.runs.run_folder import RunFolder

ARGUMENTS = [
    "subclusters", "random:0", "--channels", "16", "--protocol", "digits", "--preset", "tiny", "--known", "[[0,1],5]",
    "--limit_per_class", "12", "--epochs", "1", "--batch_size", "8", "--counts", "2,1", "--seeds", "0,1",
    "--objective_config.hidden", "8", "--device", "cpu", "--threads", "1", "--quiet",
]  # fmt: skip


def test_a_class_alone_has_the_images_that_it_has_among_others() -> None:
    protocol = make_protocol("digits", known=[3, [0, 1], 5])
    alone = class_data(load_data(protocol, limit_per_class=20), 1)
    expected = load_data(make_protocol("digits", known=[[0, 1], 7]), limit_per_class=20)
    assert alone.protocol.known == (("0", "1"),) and alone.protocol.num_known == 1 and alone.protocol.unknown == ()
    for found, other in ((alone.train, expected.train), (alone.validation, expected.validation)):
        own = other.select(other.labels == 0)
        assert len(found) > 0 and torch.equal(found.images, own.images) and not found.labels.any()
        assert torch.equal(found.source_labels, own.source_labels)


def test_the_command_end_to_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Table, option and files; only known training images are read; an interrupted run goes on where it was."""
    opened: list[tuple[str, list[int]]] = []
    load = Source.load

    def watched(source: Source, part: str, classes: list[int], *rest: Any) -> Any:
        opened.append((part, list(classes)))
        return load(source, part, classes, *rest)

    monkeypatch.setattr(Source, "load", watched)
    monkeypatch.setattr(OpenSetData, "test", lambda self: pytest.fail("test images are none of its business"))
    out = tmp_path / "run"
    assert main([*ARGUMENTS, "--out", str(out)]) == 0
    assert opened == [("train", [0, 1, 5])]
    lines = capsys.readouterr().out.splitlines()
    summary = json.loads((out / "summary.json").read_text())
    assert lines[0].split() == ["class", "subclusters", "seed", "epochs", "covering", "reconstruction"]
    trainings = [[name, count, seed] for name in ("0+1", "5") for count in "12" for seed in "01"]
    assert [line.split()[:3] for line in lines[1:9]] == trainings
    records = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    for entry in summary["classes"]:
        own = [record for record in records if record["class"] == entry["class"]]
        curves = {count: {r["seed"]: r["curve"] for r in own if r["subclusters"] == count} for count in (1, 2)}
        assert (entry["recommended"], entry["undecided"]) == recommend(curves, SubclustersRequest.gain)
        assert [{**r["curve"][-1], "epochs": 1} for r in own] == [
            {name: value for name, value in row.items() if name not in ("subclusters", "seed")}
            for row in entry["losses"]
        ]
    if None in summary["subclusters"]:
        assert summary["option"] is None and any(line.startswith("undecided: ") for line in lines)
    else:
        assert f"recommended: {summary['option']}" in lines
    run = RunFolder.open(out)
    assert run.finished and run.read_config()["objective_config"]["latent_dim"] == 5  # merged grey classes

    history = (out / "history.jsonl").read_text().splitlines(keepends=True)
    assert len(history) == 8
    (out / "history.jsonl").write_text("".join(history[:5]))
    (out / "summary.json").unlink()
    run.write_json("provenance.json", {**run.read_provenance(), "finished": None})
    assert main([*ARGUMENTS, "--out", str(out), "--resume", "auto", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (out / "history.jsonl").read_text() == "".join(history)
    assert json.loads((out / "summary.json").read_text()) == summary
    assert printed == {"out": str(out), **summary}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--counts", "2"], "counts must be two or more different numbers"),
        (["--counts", "0,1"], "counts must be greater than 0, got 0"),
        (["--counts", "1,1,2"], "counts must be two or more different numbers"),
        (["--gain", "0"], "gain must lie in (0, 1), got 0.0"),
        (["--seeds", "a"], "seeds must look like"),
        (["--objective_config.subclusters", "2"], "give --counts instead"),
        (["--objective_config.temperature", "2"], "no setting 'temperature'"),
        (["--recipe", "slow"], "unknown recipe"),
        (["--epochs", "0"], "epochs must be greater than 0"),
        (["--known", "[3]"], "at least two labels"),
        (["--resume", "yes"], "--resume must be"),
    ],
)
def test_mistakes_leave_no_trace(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main([*ARGUMENTS, "--out", str(out), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not out.exists()


def test_a_plan_fills_what_the_preset_leaves_open() -> None:
    plan = plan_subclusters(SubclustersRequest(preset="tiny", protocol="digits", counts=[3, 1]))
    names = ("counts", "split", "epochs", "batch_size", "recipe", "seeds")
    assert [plan.recorded[name] for name in names] == [[1, 3], 0, 30, 64, "fast", "0-2"]
    assert [part.training.objective.settings.subclusters for part in plan.parts] == [1, 1, 1, 3, 3, 3] * 6
    assert [part.seed for part in plan.parts[:4]] == [0, 1, 2, 0]
