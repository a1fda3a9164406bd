"""The architecture that is retrained: as it was found, or with another width or stem."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from nas_osr.retrain.build import resolve_architecture
from nas_osr.retrain.evaluate import run_evaluate
from nas_osr.retrain.retrain_request import EvaluateRequest, RetrainRequest
from nas_osr.retrain.run import run_retrain
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.architectures.references import published
from nas_osr.search_spaces.architectures.sampling import sample_architecture
from nas_osr.search_spaces.presets import get_preset

TINY: dict[str, Any] = {
    "architecture": "random:0", "protocol": "digits", "preset": "tiny", "limit_per_class": 40,
    "epochs": 1, "batch_size": 32, "device": "cpu", "threads": 1, "bootstrap": 0, "quiet": True,
}  # fmt: skip


def test_width_of_a_retrained_network() -> None:
    architecture = published()
    space = get_preset("small").space
    assert resolve_architecture("published", space).space.channels == 256
    assert resolve_architecture("published", space, channels=48).space.channels == 48
    assert resolve_architecture("published", space, channels=48).branches == architecture.branches
    found = resolve_architecture("random:3", space)
    assert found.branches == sample_architecture(found.space, 3).branches


def test_stem_of_a_retrained_network(tmp_path: Path) -> None:
    space = get_preset("tiny").space
    assert resolve_architecture("published", space).space.stem == "strided"
    small = get_preset("small").space  # a published architecture has the preset's stem, as it has its channels
    assert resolve_architecture("published", small).space.stem == small.stem == "pooled"
    assert resolve_architecture("published", small, stem="strided").space.stem == "strided"
    out = tmp_path / "pooled"
    run_retrain(RetrainRequest(**TINY, out=str(out), stem="pooled"), ["nas-osr"])
    saved = Architecture.load(out / "split-0" / "architecture.json")
    assert saved.space.stem == "pooled"
    # the run's own file is an architecture like any other, which another retraining may give the usual stem again
    again = resolve_architecture(str(out / "split-0"), space, stem="strided")
    assert again == replace(saved, space=replace(saved.space, stem="strided"))
    # reopened, it is the network that was trained
    before = (out / "split-0" / "predictions.csv").read_bytes()
    run_evaluate(EvaluateRequest(run=str(out / "split-0"), device="cpu", threads=1, bootstrap=0))
    assert (out / "split-0" / "predictions.csv").read_bytes() == before
