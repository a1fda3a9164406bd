"""Opening finished retrainings again: what comes back, and what is refused."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from nas_osr.errors import UserError
from nas_osr.retrain.reopen import open_parts, reopen
from nas_osr.retrain.retrain_request import ReopenOptions, RetrainRequest
from nas_osr.retrain.run import run_retrain
from nas_osr.runs.run_folder import RunFolder

TINY: dict[str, Any] = {
    "architecture": "random:0", "protocol": "digits", "preset": "tiny", "channels": 16, "limit_per_class": 10,
    "objective": "cross_entropy", "epochs": 1, "batch_size": 16, "device": "cpu", "threads": 1, "bootstrap": 0,
    "quiet": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of one split."""
    out = tmp_path_factory.mktemp("reopen") / "run"
    run_retrain(RetrainRequest(**TINY, out=str(out), seeds="0-1"), ["nas-osr", "retrain"])
    return out


def edit(folder: Path, pattern: str, replacement: str) -> None:
    """Change config.yaml."""
    text = (folder / "config.yaml").read_text()
    changed = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    assert changed != text
    (folder / "config.yaml").write_text(changed)


def test_parts_are_in_order_and_one_part_is_itself(finished: Path) -> None:
    assert [run.path.name for run in open_parts(finished)] == ["split-0-seed-0", "split-0-seed-1"]
    (run,) = open_parts(finished / "split-0-seed-1")
    assert run.path == finished / "split-0-seed-1"
    with pytest.raises(UserError, match="nowhere"):
        open_parts(finished / "nowhere")


def test_everything_comes_back(finished: Path) -> None:
    first, second = (reopen(run, ReopenOptions(device="cpu", threads=1)) for run in open_parts(finished))
    assert first.config.seeds == "0" and second.config.seeds == "1"
    assert first.protocol.num_known == 6 and first.protocol.image_shape == first.data.train.images.shape[1:]
    assert not first.learner.training and not any(module.training for module in first.learner.modules())
    saved = torch.load(first.run.path / "checkpoint.pt", weights_only=True)["learner"]
    state = first.learner.state_dict()
    assert set(state) == set(saved) and all(torch.equal(state[key], saved[key]) for key in saved)
    images = torch.rand(2, *first.protocol.image_shape)
    with torch.inference_mode():
        outputs = [opened.learner.infer(images).logits for opened in (first, first, second)]
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])
    assert outputs[0].shape == (2, 6)


def test_another_unknown_source(finished: Path) -> None:
    (run,) = open_parts(finished / "split-0-seed-0")
    opened = reopen(run, ReopenOptions(device="cpu"), unknown="digits")
    assert opened.protocol.unknown_source == "digits" and opened.data.protocol is opened.protocol
    with pytest.raises(UserError, match="cifar11"):
        reopen(run, ReopenOptions(device="cpu"), unknown="cifar11")


def test_another_folder_of_images_is_looked_into(finished: Path) -> None:
    (run,) = open_parts(finished / "split-0-seed-0")
    assert (
        reopen(run, ReopenOptions(data_dir="/nowhere", device="cpu")).config.data_dir == "/nowhere"
    )  # digits are bundled
    with pytest.raises(UserError, match="/nowhere"):
        reopen(run, ReopenOptions(data_dir="/nowhere", device="cpu"), unknown="cifar10").data.test()


@pytest.mark.parametrize(
    ("pattern", "replacement", "message"),
    [
        (r"^network: null$", "network: resnet19", "unknown network 'resnet19'"),
        (r"^network: null$", "network: [cac]", "network must be text or null, got a list"),
        (r"^network: null$", "network: cac", "checkpoint.pt does not fit network cac: Missing key"),
        (r"^splits:", "strategy: pas\nsplits:", "config.yaml: there is no option strategy"),
        (r"^objective: .*$", "objective: sitecustom.Loss", "--plugin sitecustom"),
        (r"^objective: .*$", "objective: [a]", "objective must be text or null, got a list"),
        (r"^data_dir: .*$", "data_dir: [a]", "data_dir must be text or null, got a list"),
        (
            r"^limit_per_class: .*$",
            "limit_per_class: many",
            "limit_per_class must be a whole number or null, got 'many'",
        ),
        (r"^splits: .*$", "splits: x", "splits must look like"),
        (r"^splits: .*$", "splits: 0-999999,0-999999", "splits names more than"),
        (r"^splits: .*$", "splits: 0-4", "of 5 splits, none of which has been trained"),
        (r"^rule: .*$", "rule: null", "it names no rule"),
    ],
)
def test_what_does_not_fit_is_refused(
    finished: Path, tmp_path: Path, pattern: str, replacement: str, message: str
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished / "split-0-seed-0", folder)
    edit(folder, pattern, replacement)
    with pytest.raises(UserError, match=message) as refused:
        reopen(RunFolder.open(folder), ReopenOptions(device="cpu"))
    assert "\n" not in str(refused.value)


def test_a_run_that_has_trained_nothing_is_refused(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished / "split-0-seed-0", folder)
    for checkpoint in folder.glob("checkpoint*"):
        checkpoint.unlink()
    with pytest.raises(UserError, match="no checkpoint.pt"):
        reopen(RunFolder.open(folder), ReopenOptions(device="cpu"))
