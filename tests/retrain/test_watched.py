"""What a retraining follows on known validation images: losses, the epoch that is kept, the plateau that ends it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nas_osr.cli.main import main
from nas_osr.data.batches import to_float
from nas_osr.data.dataset import LabelledImages, OpenSetData
from nas_osr.data.protocols import make_protocol
from nas_osr.errors import UserError
from nas_osr.outputs import Outputs, mean_of_both
from nas_osr.retrain.evaluate import fit_rules
from nas_osr.retrain.reopen import reopen
from nas_osr.retrain.retrain_plan import plan_retrain
from nas_osr.retrain.retrain_request import ReopenOptions, RetrainRequest
from nas_osr.retrain.train import Retraining, has_levelled, mean_losses
from nas_osr.runs.run_folder import RunFolder
from nas_osr.scoring.cac import CAC

COMMAND = [
    "retrain", "random:0", "--channels", "16", "--objective", "cac", "--recipe", "cac", "--protocol", "digits",
    "--preset", "tiny", "--limit_per_class", "20", "--epochs", "4", "--batch_size", "32",
    "--device", "cpu", "--threads", "1", "--bootstrap", "0", "--quiet",
]  # fmt: skip


class Brightness:
    """A loss that is the mean pixel of the batch, and another that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def validate(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        self.calls += 1
        return {"brightness": images.mean(), "last": torch.tensor(float(self.calls))}


def test_mean_losses_weigh_every_image_alike() -> None:
    images = torch.zeros(300, 1, 4, 4, dtype=torch.uint8)
    images[250:] = 255  # a second, smaller batch
    learner = Brightness()
    found = mean_losses(learner, LabelledImages(images, torch.zeros(300, dtype=torch.int64), torch.zeros(300)), 2)
    assert learner.calls == 3
    assert found["brightness"] == pytest.approx(50 / 300)
    assert found["last"] == pytest.approx((1 * 250 + 2 * 250 + 3 * 100) / 600)


def test_a_validation_loss_that_is_not_finite_is_refused() -> None:
    class Diverged(Brightness):
        def validate(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
            return {"covering": torch.tensor(float("nan"))}

    data = LabelledImages(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), torch.zeros(2))
    with pytest.raises(UserError, match="'covering' is nan"):
        mean_losses(Diverged(), data, 1)


def history_of(losses: list[float]) -> list[dict[str, Any]]:
    return [{"validation_losses": {"a": loss - 1, "b": 1.0}} for loss in losses]


@pytest.mark.parametrize(
    ("losses", "patience", "stops"),
    [
        ([], 2, False),
        ([3, 2, 1], 2, False),
        ([3, 1, 2], 2, False),
        ([3, 1, 2, 1.5], 2, True),
        ([3, 1, 2, 1], 2, True),  # as good is no better
        ([3, 1, 2, 0.5, 1], 2, False),
        ([1, 2, 3, 4], 0, False),
    ],
)
def test_a_plateau_ends_the_training(losses: list[float], patience: int, stops: bool) -> None:
    assert has_levelled(history_of(losses), patience) == stops


def test_the_epoch_with_the_least_anchor_loss_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What evaluation and model get are that epoch's weights, also of a training that was interrupted after it."""
    rate = ["--recipe_config.learning_rate", "0.3"]  # so large that the training soon gets worse
    assert main([*COMMAND, *rate, "--out", str(tmp_path / "whole")]) == 0
    run = RunFolder.open(tmp_path / "whole" / "split-0")
    losses = [record["validation_losses"]["anchor"] for record in run.read_history()]
    best = losses.index(min(losses))
    assert best < 2  # or the test says nothing
    assert f"the weights of epoch {best + 1} are kept" in caplog.text

    opened = reopen(run, ReopenOptions(device="cpu", threads=1))
    validation = opened.data.validation
    with torch.no_grad():
        logits = opened.learner.infer(to_float(validation.images)).logits
    expected = float((logits - 10 * torch.eye(6)[validation.labels]).norm(dim=1).mean())
    assert losses[best] == pytest.approx(expected, rel=1e-4)
    assert abs(losses[-1] - expected) > 1e-3

    judge = Retraining.judge

    def interrupted(self: Retraining, record: Any, *rest: Any) -> dict[str, Any]:
        if record["epoch"] == 3:
            raise KeyboardInterrupt
        return judge(self, record, *rest)

    parted = [*COMMAND, *rate, "--out", str(tmp_path / "parted")]
    with monkeypatch.context() as patch:
        patch.setattr(Retraining, "judge", interrupted)
        assert main(parted) == 130
    assert main([*parted, "--resume", "auto"]) == 0
    model = Path("split-0", "model", "model.safetensors")
    assert (tmp_path / "parted" / model).read_bytes() == (tmp_path / "whole" / model).read_bytes()


def test_losses_of_random_views_are_not_followed() -> None:
    request = RetrainRequest(protocol="digits", network="resnet18", objective="supcon", recipe="cac")
    with pytest.raises(UserError, match="supcon learns from random views"):
        plan_retrain(request)
    assert plan_retrain(replace(request, recipe_config={"keep": "last"})).parts


class Corner:
    """Logits that are the left and the right pixel of an image."""

    objective = None

    def __init__(self, mirrored: bool) -> None:
        self.mirrored = mirrored

    def look(self, images: Tensor) -> Outputs:
        return Outputs(logits=torch.stack([10 * images[:, 0, 0, 0], 10 * images[:, 0, 0, -1]], dim=1))

    def infer(self, images: Tensor) -> Outputs:
        return mean_of_both(self.look, images) if self.mirrored else self.look(images)


@pytest.mark.parametrize(
    ("name", "mirrored", "expected"),
    [
        ("fashion-mnist", False, [[6.0, 2.0], [4.0, 8.0]]),  # also the mirror image of the wrong one
        ("mnist", False, [[8.0, 2.0], [4.0, 8.0]]),  # a digit's mirror image is no digit
        ("fashion-mnist", True, [[4.0, 4.0], [0.0, 10.0]]),  # outputs are means already: equal, so all of class 0
    ],
)
def test_anchors_of_cac_are_estimated_on_mirror_images_too(name: str, mirrored: bool, expected: list[Any]) -> None:
    """Left and right pixels in tenths; right ones are where the pixel of the own class is the larger."""
    pixels = torch.tensor([[8, 2], [2, 4], [4, 8]]) * 25.5
    images = pixels.round().to(torch.uint8)[:, None, None, :]
    labels = torch.tensor([0, 0, 1])
    known = LabelledImages(images, labels, labels)
    protocol = make_protocol(name, known=[0, 1])
    data = OpenSetData(protocol, known, known, None, None)  # type: ignore[arg-type]
    rule = CAC()
    fit_rules([rule], Corner(mirrored), data, "cpu")
    np.testing.assert_allclose(rule.anchors, expected, atol=0.05)
