"""Beginning with the weights of another run: what is taken over, said, recorded, refused, and resumed."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nas_osr.data.protocols import make_protocol
from nas_osr.data.rehearsal import rehearse
from nas_osr.errors import UserError
from nas_osr.retrain.initial_weights import check_classes
from nas_osr.retrain.model_reading import open_model
from nas_osr.retrain.retrain_plan import plan_retrain
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.retrain.run import run_retrain
from nas_osr.runs.run_folder import RunFolder

REQUEST = RetrainRequest(
    architecture="random:0", protocol="digits", preset="tiny", channels=16, limit_per_class=20, epochs=2, batch_size=32,
    objective="supcon", recipe="gradmix", device="cpu", threads=1, bootstrap=0, quiet=True,
)  # fmt: skip
COMMAND = ["nas-osr", "retrain"]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SimCLR on two splits."""
    out = tmp_path_factory.mktemp("init") / "first"
    settings = {"supcon_weight": 0.0}
    run_retrain(replace(REQUEST, objective_config=settings, splits="0-1", epochs=1, out=str(out)), COMMAND)
    return out


def begin(first: Path, **changes: Any) -> Any:
    """The learner of the first part, as a training would begin with it."""
    plan = plan_retrain(replace(REQUEST, init=str(first), **changes))
    torch.manual_seed(0)
    return plan.parts[0].training.build()


def weights(run: Path) -> dict[str, torch.Tensor]:
    return open_model(run).learner.state_dict()


def test_each_split_begins_with_its_own_weights(first: Path) -> None:
    for split in (0, 1):
        begun, trained = begin(first, splits=str(split)).state_dict(), weights(first / f"split-{split}")
        assert begun.keys() == trained.keys()
        assert all(torch.equal(value, trained[name]) for name, value in begun.items())
    # a model folder by itself, and a part of several seeds
    alone = begin(first / "split-0" / "model", seeds="0-1").state_dict()
    assert all(torch.equal(value, alone[name]) for name, value in weights(first / "split-0").items())


def test_heads_of_another_objective_are_fresh(first: Path) -> None:
    plain = plan_retrain(replace(REQUEST, objective="cross_entropy"))
    torch.manual_seed(0)
    fresh = plain.parts[0].training.build()
    learner = begin(first, objective="cross_entropy")
    assert torch.equal(learner.objective.classifier.weight, fresh.objective.classifier.weight)
    trained = weights(first / "split-0")
    assert all(torch.equal(value, trained[f"encoder.{name}"]) for name, value in learner.encoder.state_dict().items())
    # MoCo's momentum encoder is a copy of what the training begins with
    moco = begin(first, objective="moco")
    for own, other in zip(moco.encoder.parameters(), moco.objective.key_encoder.parameters(), strict=True):
        assert torch.equal(own, other)
    # of the same objective, what fits
    narrow = begin(first, objective_config={"head_width": 8})
    assert torch.equal(narrow.objective.head[0].weight, trained["objective.head.0.weight"])
    assert narrow.objective.head[2].weight.shape == (8, 64)


def test_what_is_taken_over_is_said_and_recorded(first: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "out"
    with caplog.at_level(logging.WARNING):
        run_retrain(replace(REQUEST, init=str(first), objective_config={"head_width": 8}, out=str(out)), COMMAND)
    [line] = [record.message for record in caplog.records if record.message.startswith("init ")]
    count = sum(name.startswith("encoder.") for name in weights(first / "split-0"))
    assert f"taken over all {count} tensors of the network and 2 of 4 of its heads" in line
    assert line.endswith("fresh are head.2.bias, head.2.weight") and str(first / "split-0" / "model") in line
    part = RunFolder.open(out / "split-0")
    assert part.read_config()["init"] == str(first)
    description = json.loads((first / "split-0" / "model" / "model.json").read_text())
    assert part.read_provenance()["init_sha256"] == description["weights_sha256"]


def test_a_killed_training_goes_on_bit_for_bit(first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = replace(REQUEST, init=str(first), out=str(tmp_path / "straight"))
    run_retrain(straight, COMMAND)
    model = tmp_path / "model"
    shutil.copytree(first / "split-0" / "model", model)
    killed = replace(straight, init=str(model), resume="auto", out=str(tmp_path / "killed"))

    class Killed(RuntimeError):
        pass

    def kill(*known: Any) -> None:
        raise Killed

    keep = RunFolder.save_checkpoint
    for saved in (kill, lambda run, state: (keep(run, state), kill())):  # before the first checkpoint, and after it
        monkeypatch.setattr(RunFolder, "save_checkpoint", saved)
        with pytest.raises(Killed):
            run_retrain(killed, COMMAND)
    monkeypatch.setattr(RunFolder, "save_checkpoint", keep)

    shutil.copytree(tmp_path / "straight" / "split-0" / "model", model, dirs_exist_ok=True)
    with pytest.raises(UserError, match="cannot resume: the weights of .*model have changed since the run began"):
        run_retrain(killed, COMMAND)
    shutil.copytree(first / "split-0" / "model", model, dirs_exist_ok=True)
    run_retrain(killed, COMMAND)
    ours, theirs = (weights(tmp_path / name) for name in ("killed", "straight"))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    histories = [(tmp_path / name / "split-0" / "history.jsonl").read_bytes() for name in ("killed", "straight")]
    assert histories[0] == histories[1]
    # what it began with matters: from scratch it is another network
    run_retrain(replace(straight, init=None, out=str(tmp_path / "scratch")), COMMAND)
    scratch = weights(tmp_path / "scratch")
    assert not all(torch.equal(value, scratch[name]) for name, value in theirs.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "random:1"}, "is another network: "),
        ({"channels": 8}, r"\[32, 16, 3, 3\] there, \[16, 8, 3, 3\] here"),
        ({"splits": "0-2"}, "has no finished split-2"),
        ({"init": "nowhere"}, "nowhere: no such model folder"),
        ({"pseudo_unknown": [2]}, "has learned from images of 2, which is unknown here"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    first: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    out = tmp_path / "out"
    with pytest.raises(UserError, match=message) as refusal:
        run_retrain(replace(REQUEST, out=str(out), **{"init": str(first), **changes}), COMMAND)
    assert "\n" not in str(refusal.value) and not out.exists()


def test_weights_that_have_seen_test_images_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    """By the name and source of classes; a rehearsal's test images are training images of known ones, too."""
    place, digits = Path("model"), make_protocol("digits", 0)
    check_classes(digits.to_dict(), digits, place)
    check_classes(make_protocol("cifar100-closed").to_dict(), make_protocol("cifar10"), place)
    with pytest.raises(UserError, match="unknown here"):  # CIFAR+N's unknown classes come from CIFAR-100
        check_classes(make_protocol("cifar100-closed").to_dict(), make_protocol("cifar+10"), place)
    rehearsal = rehearse(digits, digits.class_names[:2])
    check_classes(rehearsal.to_dict(), rehearsal, place)
    check_classes(rehearsal.to_dict(), digits, place)
    kept = make_protocol("digits", known=list(digits.class_names[2:]))
    with pytest.raises(UserError, match="may have learned from what this rehearsal tests on"):
        check_classes(kept.to_dict(), rehearsal, place)
    with caplog.at_level(logging.WARNING):
        check_classes(None, digits, place)
    assert "does not say which classes" in caplog.text
