"""The space `wide` in every command: search, export, retrain, evaluate, predict and ONNX, with real digits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

import nas_osr
from nas_osr.cli.main import main
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.architectures.canonical import canonical
from nas_osr.search_spaces.architectures.sampling import sample_architecture
from nas_osr.search_spaces.presets import space_of

RUN = ["--protocol", "digits", "--preset", "tiny", "--limit_per_class", "30", "--batch_size", "16", "--quiet"]
RUN += ["--device", "cpu", "--threads", "1", "--objective", "cross_entropy"]
PAS = ["--epochs", "2", "--strategy_config.warmup_epochs", "1"]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search by `pas`."""
    out = tmp_path_factory.mktemp("wide") / "search"
    assert main(["search", *RUN, *PAS, "--space", "wide", "--out", str(out)]) == 0
    return out


def test_a_search_records_every_choice_and_its_folder_repeats_it(found: Path, tmp_path: Path) -> None:
    space = space_of("wide", "tiny")
    architecture = Architecture.load(found / "architecture.json")
    assert architecture.space == space
    records = [json.loads(line) for line in (found / "history.jsonl").read_text().splitlines()]
    for record in records:
        for name, candidates in space.choices.items():
            assert set(record["gamma"][name]) == set(map(str, candidates))
        assert set(record["join"]) == set(record["beta"]) & {"2/1", "3/1", "3/2"}
        assert Architecture.from_description(space, record).space == space
        assert record["paths"]["1"]["chosen"] >= record["paths"]["1"]["runner_up"]
    before, after = records
    assert all(len(set(p.values())) == 1 for kind in ("alpha", "gamma", "join") for p in before[kind].values())
    moved = [name for kind in ("gamma", "join") for name, p in after[kind].items() if len(set(p.values())) > 1]
    assert len(moved) == len(after["gamma"]) + len(after["join"])  # all of them learn

    assert main(["search", "--config", str(found / "config.yaml"), "--quiet", "--out", str(tmp_path / "again")]) == 0
    for name in ("history.jsonl", "architecture.json", "architecture.svg", "config.yaml"):
        assert (tmp_path / "again" / name).read_bytes() == (found / name).read_bytes()


def test_what_a_search_found_is_exported_trained_and_used(
    found: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(found), "--format", "graphml,png", "--out", str(tmp_path)]) == 0
    assert main(["export", str(tmp_path / "architecture.graphml"), "--format", "json", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "architecture.json").read_bytes() == (found / "architecture.json").read_bytes()
    said = "17,280,000 architectures, 11,331,360 different networks; second inputs not counted"
    assert said in capsys.readouterr().out
    check_trained([str(found)], tmp_path / "trained")


@pytest.mark.parametrize("seed", [4])
def test_one_at_random_is_trained_and_used(seed: int, tmp_path: Path) -> None:
    check_trained([f"random:{seed}", "--space", "wide"], tmp_path / "trained")
    architecture = Architecture.load(tmp_path / "trained" / "split-0" / "architecture.json")
    assert canonical(architecture) == canonical(sample_architecture(space_of("wide", "tiny"), seed))


def check_trained(what: list[str], out: Path) -> None:
    """Train it, judge it again, and let the model answer by itself and as ONNX."""
    assert main(["retrain", *what, *RUN, "--epochs", "2", "--bootstrap", "0", "--out", str(out)]) == 0
    run = out / "split-0"
    metrics = json.loads((run / "metrics.json").read_text())
    assert main(["evaluate", str(run), "--bootstrap", "0"]) == 0
    assert json.loads((run / "metrics.json").read_text())["metrics"] == metrics["metrics"]
    assert main(["export", str(run), "--format", "onnx", "--out", str(out / "onnx")]) == 0
    model = nas_osr.load(run / "model", device="cpu")
    pixels = torch.randint(0, 256, (32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8).numpy()
    Image.fromarray(pixels).save(out / "noise.png")
    [label] = model.predict(pixels[None])
    session = onnxruntime.InferenceSession(out / "onnx" / "model.onnx")
    answer = session.run(None, {"images": pixels[None, None]})
    names = [*json.loads((run / "model" / "model.json").read_text())["classes"], "unknown"]
    assert names[int(np.asarray(answer[0])[0])] == label


def test_other_strategies_take_it(tmp_path: Path) -> None:
    out = tmp_path / "run"
    trials = ["--strategy", "random", "--strategy_config.trials", "2", "--epochs", "1"]
    assert main(["search", *RUN, *trials, "--space", "wide", "--out", str(out)]) == 0
    architecture = Architecture.load(out / "architecture.json")
    records = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    [best] = [record for record in records if record["epoch"] == architecture.found["epoch"]]
    assert Architecture.from_description(architecture.space, best).describe() == architecture.describe()
