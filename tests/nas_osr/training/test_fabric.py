"""In which precision a run is computed: decided once, kept in config.yaml, and gone on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric

from nas_osr import evaluate, load, train
from nas_osr.evaluation.predictions import read_predictions
from nas_osr.plans import decide_precision
from nas_osr.retrain.reopen import reopen
from nas_osr.retrain.retrain_request import ReopenOptions, RetrainRequest
from nas_osr.runs.run_folder import RunFolder
from nas_osr.strategies.run import search_as_planned
from nas_osr.strategies.search_plan import plan_search
from nas_osr.strategies.search_request import SearchRequest
from nas_osr.training import fabric

INSTRUCTIONS = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
QUICK: dict[str, Any] = {"protocol": "digits", "preset": "tiny", "limit_per_class": 20, "threads": 1, "quiet": True}
# which can be lengthened
SHORT = {**QUICK, "architecture": "random:0", "objective": "cross_entropy", "recipe": "adam"}


def give_processor(monkeypatch: pytest.MonkeyPatch, *instructions: str) -> None:
    """A processor with these of the instructions."""
    for name in INSTRUCTIONS:
        monkeypatch.setattr(torch.cpu, name, lambda has=name in instructions: has)


@pytest.mark.parametrize("instruction", [*INSTRUCTIONS, None])
def test_auto_asks_the_processor(monkeypatch: pytest.MonkeyPatch, instruction: str | None) -> None:
    give_processor(monkeypatch, *([instruction] if instruction else []))
    request = SearchRequest(device="cpu")
    small, tiny = decide_precision(request, "small").precision, decide_precision(request, "tiny").precision
    assert (small, tiny) == ("bf16-mixed" if instruction else "32-true", "32-true")
    assert decide_precision(SearchRequest(precision="bf16-mixed"), "tiny").precision == "bf16-mixed"
    assert request.precision == "auto"


def test_autocast_multiplies_in_bf16_and_changes_no_images() -> None:
    layer, images = torch.nn.Linear(4, 2), torch.ones(3, 4)
    seen: list[torch.dtype] = []
    for precision, expected in (("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)):
        made = fabric.make_fabric("cpu", precision, 0)
        layer.register_forward_hook(lambda module, given, out: seen.extend((given[0].dtype, out.dtype)))
        assert made.setup_module(layer)(images).dtype == torch.float32  # Fabric hands out float32
        assert seen[-2:] == [torch.float32, expected]
        assert fabric.describe_fabric(made)["precision"] == precision


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_what_is_only_looked_at_is_computed_as_in_training(precision: str) -> None:
    made = fabric.make_fabric("cpu", precision, 0)
    torch.manual_seed(0)
    layer, images = torch.nn.Linear(64, 8), torch.rand(16, 64)
    with torch.inference_mode():
        trained, looked_at = made.setup_module(layer)(images), fabric.computed_as_trained(made, layer)(images)
    assert torch.equal(trained, looked_at) and looked_at.dtype == torch.float32
    assert torch.equal(looked_at, layer(images)) == (precision == "32-true")


def test_a_search_sets_up_its_supernet_once_and_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each further set-up, as of the network that an epoch decodes to, would be a warning of Fabric's on a GPU."""
    calls: list[str] = []

    def count(name: str) -> None:
        plain = getattr(Fabric, name)

        def counted(*given: Any, **more: Any) -> Any:
            calls.append(name)
            return plain(*given, **more)

        monkeypatch.setattr(Fabric, name, counted)

    count("setup")
    count("setup_module")
    request = SearchRequest(**{**QUICK, "out": str(tmp_path)}, epochs=3, strategy_config={"warmup_epochs": 1})
    plan = plan_search(request)
    capfd.readouterr()
    search_as_planned(plan, ["nas-osr", "search"])
    assert calls == ["setup", "setup"]  # to count its memory, and to search
    said = capfd.readouterr()
    assert said.out == "" and "Fabric" not in said.err and "matmul" not in said.err


def test_a_run_goes_on_in_the_precision_that_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begun where bf16 is chosen, gone on with where it is not, and as good as in one go; evaluated alike."""
    whole, out = tmp_path / "whole", tmp_path / "run"
    train(**SHORT, precision="bf16-mixed", epochs=2, out=whole)
    train(**SHORT, precision="bf16-mixed", epochs=1, out=out)
    give_processor(monkeypatch)
    train(**SHORT, epochs=2, out=out, resume="auto")
    for name in ("config.yaml", "split-0/config.yaml", "split-0/history.jsonl", "split-0/predictions.csv"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    part = RunFolder.open(out / "split-0")
    assert part.read_config()["precision"] == "bf16-mixed"
    metrics = part.read_json("metrics.json")["metrics"]
    assert evaluate(str(out), threads=1)[0]["metrics"] == metrics  # in float32, like the model
    images = reopen(part, ReopenOptions(threads=1)).data.test().images.permute(0, 2, 3, 1).numpy()
    asked = load(part.path / "model").ask(images).knownness
    assert read_predictions(part.path / "predictions.csv").knownness == pytest.approx(asked, rel=1e-12)


def test_runs_of_earlier_versions_go_on_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They decided at every start, and kept the precision in the provenance of their parts alone."""
    train(**SHORT, precision="32-true", epochs=1, out=tmp_path)
    for folder in (tmp_path, tmp_path / "split-0"):
        config = folder / "config.yaml"
        config.write_text(config.read_text().replace("precision: 32-true", "precision: auto"))
    give_processor(monkeypatch, INSTRUCTIONS[0])
    options = {**SHORT, "preset": "small", "out": str(tmp_path)}  # where a new run would be in bf16
    request = RetrainRequest(**options, resume="auto")
    assert decide_precision(request, "small").precision == "32-true"
    train(**SHORT, epochs=2, out=tmp_path, resume="auto")
    history = RunFolder.open(tmp_path / "split-0").read_history()
    assert len(history) == 2
