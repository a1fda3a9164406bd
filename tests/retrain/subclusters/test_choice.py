"""Choosing the subclusters of a GMVAE: the recommendation by hand, and the command on a few digits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas_osr.cli.main import main
from nas_osr.data.dataset import LabelledImages, OpenSetData, load_data
from nas_osr.data.protocols import make_protocol
from nas_osr.data.sources.base import Source
from nas_osr.errors import UserError
from nas_osr.retrain.subclusters.choice import class_data, mean_losses, plan_subclusters, recommend
from nas_osr.retrain.subclusters.subclusters_request import SubclustersRequest
from nas_osr.runs.run_folder import RunFolder

ARGUMENTS = [
    "subclusters", "random:0", "--channels", "16", "--protocol", "digits", "--preset", "tiny", "--known", "[[0,1],5]",
    "--limit_per_class", "12", "--epochs", "1", "--batch_size", "8", "--counts", "2,1",
    "--objective_config.hidden", "8", "--device", "cpu", "--threads", "1", "--quiet",
]  # fmt: skip


def losses(*pairs: tuple[float, float]) -> list[dict[str, float]]:
    """Covering and reconstruction for the counts 1, 2, ..."""
    return [{"subclusters": k, "covering": c, "reconstruction": r} for k, (c, r) in enumerate(pairs, start=1)]


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (losses((10, 100), (9.5, 100), (5, 100)), 1),  # the first step gains 5 %, so the second is never looked at
        (losses((10, 100), (9, 100), (8.5, 100)), 2),  # 10 % is enough, 6 % is not
        (losses((10, 100), (8, 100), (6, 100)), 3),
        (losses((10, 100), (8, 103), (6, 103)), 3),  # the tolerance itself is equal
        (losses((10, 100), (8, 103.5), (6, 100)), 1),  # bought with the reconstruction
        (losses((10, 100), (8, 50), (9, 50)), 2),
        (losses((1, 100), (10, 50), (9.9, 50)), 2),  # the first prior had collapsed: 101 against 60
        (losses((1, 100), (10, 95), (5, 95)), 1),  # 101 against 105
        (losses((10, 100), (10, 98)), 1),  # within the tolerance the reconstruction says nothing
        (losses((-1, 100), (-1.05, 100)), 1),  # shares of the size, whatever the sign
        (losses((-1, 100), (-1.5, 100)), 2),
        (losses((0, 100), (0, 100)), 1),
        (losses((10, -500), (8, -498), (6, -400)), 2),
    ],
)
def test_recommendation_by_hand(table: list[dict[str, float]], expected: int) -> None:
    assert recommend(table, gain=0.1, tolerance=3.0) == expected


def test_recommendation_names_the_count_not_its_place() -> None:
    table = [dict(entry, subclusters=count) for entry, count in zip(losses((10, 1), (8, 1)), (2, 5), strict=True)]
    assert recommend(table, gain=0.1, tolerance=0.0) == 5


def test_a_class_alone_has_the_images_that_it_has_among_others() -> None:
    protocol = make_protocol("digits", known=[3, [0, 1], 5])
    alone = class_data(load_data(protocol, limit_per_class=20), 1)
    expected = load_data(make_protocol("digits", known=[[0, 1], 7]), limit_per_class=20)
    assert alone.protocol.known == (("0", "1"),) and alone.protocol.num_known == 1 and alone.protocol.unknown == ()
    for found, other in ((alone.train, expected.train), (alone.validation, expected.validation)):
        own = other.select(other.labels == 0)
        assert len(found) > 0 and torch.equal(found.images, own.images) and not found.labels.any()
        assert torch.equal(found.source_labels, own.source_labels)


class Brightness(nn.Module):
    """A loss that is the mean pixel of the batch, and another that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        assert not self.training
        self.calls += 1
        return {"brightness": images.mean(), "last": torch.tensor(float(self.calls))}


def test_mean_losses_weigh_every_image_alike() -> None:
    images = torch.zeros(300, 1, 4, 4, dtype=torch.uint8)
    images[250:] = 255  # a second, smaller batch
    learner = Brightness()
    found = mean_losses(learner, LabelledImages(images, torch.zeros(300, dtype=torch.int64), torch.zeros(300)), 2)
    assert learner.calls == 4
    assert found["brightness"] == pytest.approx(50 / 300)
    assert found["last"] == pytest.approx((1 * 250 + 2 * 50 + 3 * 250 + 4 * 50) / 600)


def test_a_validation_loss_that_is_not_finite_is_refused() -> None:
    class Diverged(Brightness):
        def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
            return {"covering": torch.tensor(float("nan"))}

    data = LabelledImages(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), torch.zeros(2))
    with pytest.raises(UserError, match="'covering' is nan"):
        mean_losses(Diverged(), data, 1)


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
    assert lines[0].split() == ["class", "subclusters", "covering", "reconstruction"]
    assert [line.split()[:2] for line in lines[1:5]] == [["0+1", "1"], ["0+1", "2"], ["5", "1"], ["5", "2"]]
    assert lines[5] == f"recommended: {summary['option']}"
    assert summary["option"] == '--objective_config.subclusters "{}"'.format(
        str(summary["subclusters"]).replace(" ", "")
    )
    for entry in summary["classes"]:
        assert [row["subclusters"] for row in entry["losses"]] == [1, 2]
        assert entry["recommended"] == recommend(
            entry["losses"], SubclustersRequest.gain, SubclustersRequest.tolerance * 32 * 32
        )
        assert all(set(row) == {"subclusters", "covering", "reconstruction", "kl_w"} for row in entry["losses"])
    run = RunFolder.open(out)
    assert run.finished and run.read_config()["objective_config"]["latent_dim"] == 5  # merged grey classes

    history = (out / "history.jsonl").read_text().splitlines(keepends=True)
    assert len(history) == 4
    (out / "history.jsonl").write_text("".join(history[:3]))
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
        (["--tolerance=-1"], "tolerance must not be negative"),
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
    names = ("counts", "split", "epochs", "batch_size", "recipe")
    assert [plan.recorded[name] for name in names] == [[1, 3], 0, 30, 64, "fast"]
    assert [part.training.objective.settings.subclusters for part in plan.parts] == [1, 3] * 6
