"""Retraining on digits: recipes, complete run folders, evaluation from the saved model, and refusals."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nas_osr.cli.main import main
from nas_osr.data.batches import to_float
from nas_osr.errors import UserError
from nas_osr.evaluation.predictions import read_predictions
from nas_osr.metrics.resampling import mean_and_spread
from nas_osr.objectives import objective_class
from nas_osr.retrain.evaluate import run_evaluate
from nas_osr.retrain.model_reading import open_model
from nas_osr.retrain.reopen import read_retrain_config, reopen
from nas_osr.retrain.retrain_request import EvaluateRequest, ReopenOptions, RetrainRequest
from nas_osr.retrain.run import run_retrain
from nas_osr.runs.run_folder import RunFolder
from nas_osr.scoring import make_rule, rules_for
from nas_osr.search_spaces.architectures.references import published
from nas_osr.training.learner import Learner

TINY: dict[str, Any] = {
    "architecture": "random:0", "protocol": "digits", "preset": "tiny", "channels": 16, "limit_per_class": 40,
    "epochs": 2, "batch_size": 32, "device": "cpu", "threads": 1, "bootstrap": 20, "quiet": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Two splits, retrained."""
    out = tmp_path_factory.mktemp("retrain") / "run"
    summary = run_retrain(RetrainRequest(**TINY, out=str(out), splits="0-1"), ["nas-osr", "retrain"])
    return out, summary


def test_run_folders_are_complete(finished: tuple[Path, dict[str, Any]]) -> None:
    out, summary = finished
    assert sorted(path.name for path in out.glob("split-*")) == ["split-0", "split-1"]
    for part in out.glob("split-*"):
        names = {path.name for path in part.iterdir()}
        assert {
            "config.yaml", "provenance.json", "history.jsonl", "timing.jsonl", "architecture.json", "checkpoint.pt",
            "metrics.json", "predictions.csv",
        } <= names  # fmt: skip
        history = RunFolder.open(part).read_history()
        assert [record["epoch"] for record in history] == [0, 1]
        assert set(history[0]["losses"]) == {"ce", "kl_class", "kl_instance", "reconstruction", "contrastive"}
    saved = json.loads((out / "summary.json").read_text())
    assert saved["metrics"]["auroc"] == summary["metrics"]["auroc"]
    values = [part["auroc"] for part in saved["parts"].values()]
    assert saved["metrics"]["auroc"]["mean"] == pytest.approx(np.mean(values))
    assert saved["metrics"]["auroc"]["std"] == pytest.approx(np.std(values, ddof=1))


def test_figures_follow_from_the_predictions(finished: tuple[Path, dict[str, Any]]) -> None:
    out, _ = finished
    metrics = json.loads((out / "split-0" / "metrics.json").read_text())
    assert read_predictions(out / "split-0" / "predictions.csv").metrics() == metrics["metrics"]
    low, high = metrics["intervals"]["auroc"]
    assert low <= metrics["metrics"]["auroc"] <= high
    assert [point["unknown_classes"] for point in metrics["openness_f1_curve"]] == [0, 1, 2, 3, 4]


def test_evaluate_recomputes_everything_from_the_saved_model(finished: tuple[Path, dict[str, Any]]) -> None:
    out, _ = finished
    files = [part / name for part in sorted(out.glob("split-*")) for name in ("metrics.json", "predictions.csv")]
    before = [file.read_bytes() for file in files]
    results = run_evaluate(EvaluateRequest(run=str(out), device="cpu", threads=1, bootstrap=20))
    after = [file.read_bytes() for file in files]
    assert len(results) == 2 and before == after


def test_evaluate_with_another_rule_leaves_the_first_result(finished: tuple[Path, dict[str, Any]]) -> None:
    out, _ = finished
    part = out / "split-1"
    before = (part / "metrics.json").read_bytes()
    (result,) = run_evaluate(EvaluateRequest(run=str(part), rule="mls", device="cpu", threads=1, bootstrap=0))
    assert result["rule"] == "mls" and (part / "metrics.json").read_bytes() == before
    assert json.loads((part / "metrics-mls.json").read_text())["metrics"] == result["metrics"]


def test_evaluate_with_every_rule_opens_the_images_once(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The figures are those of a rule alone; the run's own rule, which is among them, stays without a label."""
    common: dict[str, Any] = {"device": "cpu", "threads": 1, "bootstrap": 0}
    part, other = tmp_path / "together", tmp_path / "alone"
    for copy in (part, other):
        shutil.copytree(finished[0] / "split-0", copy)
    passes: list[int] = []
    infer = Learner.infer

    def counted(self: Learner, images: torch.Tensor, whole: bool = False) -> Any:
        passes.append(len(images))
        return infer(self, images, whole)

    monkeypatch.setattr(Learner, "infer", counted)
    together = {result["rule"]: result for result in run_evaluate(EvaluateRequest(run=str(part), rule="all", **common))}
    images = sum(count for count in passes if count > 1)  # one image counts multiplications
    assert list(together) == rules_for(objective_class(read_retrain_config(RunFolder.open(part)).objective))
    own = json.loads((part / "metrics.json").read_text())["rule"]
    data = reopen(RunFolder.open(part), ReopenOptions(device="cpu", threads=1)).data
    judged = len(data.validation) + len(data.test())
    # once for all; ODIN looks twice, and the neighbours in layers once, for themselves
    assert images == len(data.train) + judged + 2 * judged + len(data.train) + judged
    assert {own, "cac", "vim", "odin"} <= together.keys()
    for name in (own, "cac", "vim", "odin"):  # with mirror images, the last layer, and looks of its own
        result = together[name]
        passes.clear()
        (alone,) = run_evaluate(EvaluateRequest(run=str(other), rule=name, **common))
        needed = judged * (2 if name == "odin" else 1) + (len(data.train) if make_rule(name, {}).learns else 0)
        assert alone == result and sum(count for count in passes if count > 1) == needed, name
        assert result["label"] == ("" if name == own else name)
    pair = run_evaluate(EvaluateRequest(run=str(part), rule="energy, mls,energy", **common))
    assert pair == [together["energy"], together["mls"]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "mls,msp", "rule_config": {"k": 3}}, "2 are asked for"),
        ({"rule": "mls,nonsense"}, "nonsense"),
        ({"rule": "mls,,msp"}, "scoring rule"),
    ],
)
def test_wrong_lists_of_rules_are_refused_before_images_are_opened(
    finished: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr("nas_osr.retrain.evaluate.reopen", None)
    with pytest.raises(UserError, match=message):
        run_evaluate(EvaluateRequest(run=str(finished[0] / "split-0"), **settings))


def test_several_rules_are_printed_side_by_side(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    options = ["--device", "cpu", "--threads", "1", "--bootstrap", "0"]
    assert main(["evaluate", str(folder), "--rule", "mls,msp", *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["metric", "mls", "msp"]
    results = [RunFolder.open(part).read_json("metrics-msp.json")["metrics"] for part in parts(folder)]
    aurocs = [result["auroc"] for result in results]
    assert lines[1].endswith(f"{np.mean(aurocs):.4f} ± {np.std(aurocs, ddof=1):.4f}")
    assert main(["evaluate", str(folder), *options]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["metric", "split-0", "split-1", "mean"]
    assert main(["evaluate", str(folder / "split-0"), "--rule", "mls,msp", *options]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["metric", "mls", "msp"]


def test_the_last_lines_say_what_was_found_and_what_comes_next(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "my run"
    shutil.copytree(finished[0], folder)
    assert main(["evaluate", str(folder), "--device", "cpu", "--threads", "1", "--bootstrap", "0"]) == 0
    *_, verdict, after = capsys.readouterr().out.splitlines()
    share = mean_and_spread([RunFolder.open(part).read_json("metrics.json")["metrics"] for part in parts(folder)])
    assert f"AUROC {100 * share['auroc']['mean']:.1f} %" in verdict
    assert after == f"next: nas-osr predict '{folder}/split-0' IMAGES"
    assert main(["predict", str(folder / "split-0"), str(folder), "--device", "cpu"]) == 2  # no picture is there


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("split-*"))


def test_evaluate_against_another_source(finished: tuple[Path, dict[str, Any]]) -> None:
    """All other classes of the run's own source are its unknown classes anyway: the same figures."""
    out, summary = finished
    part = out / "split-1"
    (result,) = run_evaluate(EvaluateRequest(run=str(part), unknown="digits", device="cpu", threads=1, bootstrap=0))
    assert result["metrics"] == summary["parts"]["split-1"]
    assert (part / "predictions-digits.csv").exists()
    with pytest.raises(UserError, match="cifar11"):
        run_evaluate(EvaluateRequest(run=str(part), unknown="cifar11"))


def test_two_folders_of_one_name_do_not_take_each_other_s_place(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    part = tmp_path / "split-0"
    shutil.copytree(finished[0] / "split-0", part)
    for place, shade in (("north", 0), ("south", 200)):
        (tmp_path / place / "camera").mkdir(parents=True)
        for number in range(2):
            Image.new("L", (16, 16), shade + number).save(tmp_path / place / "camera" / f"{number}.png")
    request = EvaluateRequest(run=str(part), device="cpu", threads=1, bootstrap=0)
    (first,) = run_evaluate(replace(request, unknown=str(tmp_path / "north" / "camera")))
    assert first["label"] == "camera" and first["unknown_folder"] == str(tmp_path / "north" / "camera")
    kept = (part / "metrics-camera.json").read_bytes()
    for rule in (None, "energy"):  # under another rule they would lie beside each other
        with pytest.raises(UserError, match=r"metrics-camera\.json: of .*north/camera, and not of .*south/camera"):
            run_evaluate(replace(request, unknown=str(tmp_path / "south" / "camera"), rule=rule))
    (tmp_path / "north" / "camera").rename(tmp_path / "north" / "energy")
    run_evaluate(replace(request, rule="energy"))
    with pytest.raises(UserError, match=r"metrics-energy\.json: of a source or rule of that name, and not of .*energy"):
        run_evaluate(replace(request, unknown=str(tmp_path / "north" / "energy")))
    (tmp_path / "north" / "energy").rename(tmp_path / "north" / "camera")
    assert (part / "metrics-camera.json").read_bytes() == kept
    run_evaluate(replace(request, unknown=str(tmp_path / "north" / "camera")))  # again is as before
    assert (part / "metrics-camera.json").read_bytes() == kept


def test_embeddings_are_written_beside_the_predictions(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    part = tmp_path / "split-0"
    shutil.copytree(finished[0] / "split-0", part)
    request = EvaluateRequest(run=str(part), device="cpu", threads=1, bootstrap=0, embeddings=True)
    run_evaluate(request)
    run_evaluate(replace(request, unknown="digits", rule="mls"))
    assert (part / "embeddings-digits.npz").exists()
    with np.load(part / "embeddings.npz", allow_pickle=False) as file:
        found = dict(file)
    predictions = read_predictions(part / "predictions.csv")
    assert found["true_label"].tolist() == predictions.true_label.tolist()
    assert found["true_class"].tolist() == predictions.true_class.tolist()
    # by another way: each image by itself, in the network of the model folder
    opened = reopen(RunFolder.open(part), ReopenOptions(device="cpu", threads=1))
    for prefix, images in (("", opened.data.test()), ("train_", opened.data.train)):
        pictures = images.images[:5].float() / 255
        with torch.no_grad():
            pooled = open_model(part).learner.encoder(pictures).branches[2].mean((2, 3))
        np.testing.assert_allclose(found[f"{prefix}pooled"][:5], pooled, rtol=1e-4, atol=1e-5)
        assert len(found[f"{prefix}pooled"]) == len(images)
    assert found["train_label"].tolist() == opened.data.train.labels.tolist()
    assert found["known_classes"].tolist() == list(opened.protocol.class_names)
    with pytest.raises(UserError, match="leave --mirrored out"):
        run_evaluate(replace(request, mirrored=True))


def test_outputs_can_be_averaged_over_mirror_images(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = tmp_path / "split-0"
    shutil.copytree(finished[0] / "split-0", part)
    before = (part / "metrics.json").read_bytes()
    request = EvaluateRequest(run=str(part), rule="mls", mirrored=True, device="cpu", threads=1, bootstrap=0)
    with monkeypatch.context() as patched:
        patched.setattr("nas_osr.retrain.evaluate.reopen", None)  # which reads the images
        with pytest.raises(UserError, match="mirror image is no digit"):
            run_evaluate(request)
    monkeypatch.setattr("nas_osr.data.sources.digits.Digits.mirrors", True)
    (result,) = run_evaluate(request)
    assert result["mirrored"] and result["label"] == "mls-mirrored" and (part / "metrics.json").read_bytes() == before

    opened = reopen(RunFolder.open(part), ReopenOptions(device="cpu", threads=1))
    images = to_float(opened.data.test().images)
    with torch.inference_mode():
        seen, mirrored = (opened.learner.infer(view).logits for view in (images, images.flip(3)))
    table = np.genfromtxt(part / "predictions-mls-mirrored.csv", delimiter=",", names=True)
    logits = np.stack([table[f"logit_{label}"] for label in range(seen.shape[1])], axis=1)
    np.testing.assert_allclose(logits, (seen + mirrored).numpy() / 2, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(seen, mirrored, atol=1e-2)


def test_outliers_of_the_training_cannot_play_the_unknown(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    part = tmp_path / "split-0"
    shutil.copytree(finished[0] / "split-0", part)
    run = RunFolder.open(part)
    run.write_yaml("config.yaml", {**run.read_config(), "outliers": "mnist"})
    with pytest.raises(UserError, match="learned from images of mnist as outliers"):
        run_evaluate(EvaluateRequest(run=str(part), unknown="mnist"))


@pytest.mark.parametrize(("field", "value"), [("objective", "sitecustom.Loss"), ("rule", "sitecustom.Rule")])
def test_nothing_in_a_run_folder_causes_an_import(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path, field: str, value: str
) -> None:
    out, _ = finished
    folder = tmp_path / "copy"
    shutil.copytree(out / "split-0", folder)
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(re.sub(rf"^{field}: .*$", f"{field}: {value}", text, flags=re.MULTILINE))
    with pytest.raises(UserError, match="--plugin sitecustom"):
        run_evaluate(EvaluateRequest(run=str(folder), device="cpu"))


def test_operations_of_an_architecture_file_are_not_imported(tmp_path: Path) -> None:
    """Neither a module that is not loaded nor a callable of one that is."""
    value = published().to_dict()
    for name, message in (("not_loaded.Cell", "--plugin not_loaded"), ("os.system", "no class system derived from")):
        value["space"]["operations"] = [name]
        value["branches"]["2"]["operations"] = [name] * 6
        config = RetrainRequest(**{**TINY, "architecture": value, "out": str(tmp_path / "run")})
        with pytest.raises(UserError, match=message):
            run_retrain(config, ["nas-osr"])
        assert not (tmp_path / "run").exists()


def test_config_alone_repeats_the_run(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """A part's config.yaml holds everything, the architecture included."""
    out, _ = finished
    config = RunFolder.open(out / "split-1").read_config()
    run_retrain(RetrainRequest(**config, out=str(tmp_path / "again"), quiet=True), ["nas-osr"])
    for name in ("history.jsonl", "metrics.json", "predictions.csv", "architecture.json", "config.yaml"):
        assert (tmp_path / "again" / "split-1" / name).read_bytes() == (out / "split-1" / name).read_bytes(), name


def test_finished_run_is_refused_or_read(finished: tuple[Path, dict[str, Any]]) -> None:
    out, summary = finished
    config = RetrainRequest(**TINY, out=str(out), splits="0-1")
    with pytest.raises(UserError, match="finished run"):
        run_retrain(config, ["nas-osr"])
    config.resume = "auto"
    before = (out / "provenance.json").read_bytes()
    assert run_retrain(config, ["nas-osr"])["metrics"] == summary["metrics"]
    assert (out / "provenance.json").read_bytes() == before


def test_finished_run_takes_more_splits_and_nothing_else(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished[0], out)
    for change, message in (({"epochs": 1}, "epochs was"), ({"splits": "1-2"}, "was begun with --splits 0")):
        with pytest.raises(UserError, match=message):
            run_retrain(RetrainRequest(**{**TINY, "out": str(out), "splits": "0-2", "resume": "auto", **change}), ["x"])
    assert not (out / "split-2").exists()
    kept = (out / "split-1" / "checkpoint.pt").stat().st_mtime_ns
    more = run_retrain(RetrainRequest(**TINY, out=str(out), splits="0-2", resume="auto"), ["nas-osr"])
    assert {name: figures for name, figures in more["parts"].items() if name != "split-2"} == finished[1]["parts"]
    assert (out / "split-1" / "checkpoint.pt").stat().st_mtime_ns == kept
    run = RunFolder.open(out)
    assert run.finished and run.read_config()["splits"] == "0-2" and len(run.read_provenance()["resumed"]) == 1


def test_killed_retraining_resumes_with_the_same_bits(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _ = finished
    config = RetrainRequest(**TINY, out=str(tmp_path / "run"), splits="0-1")
    original = RunFolder.save_checkpoint

    class Killed(BaseException):
        pass

    def kill_after_first(self: RunFolder, state: dict[str, Any]) -> None:
        original(self, state)
        if self.path.name == "split-1" and state["epoch"] == 0:
            raise Killed

    monkeypatch.setattr(RunFolder, "save_checkpoint", kill_after_first)
    with pytest.raises(Killed):
        run_retrain(config, ["nas-osr"])
    monkeypatch.setattr(RunFolder, "save_checkpoint", original)
    config.resume = "auto"
    run_retrain(config, ["nas-osr"])
    for split in ("split-0", "split-1"):
        for name in ("history.jsonl", "metrics.json", "predictions.csv"):
            assert (tmp_path / "run" / split / name).read_bytes() == (out / split / name).read_bytes(), (split, name)
        states = [torch.load(folder / split / "checkpoint.pt", weights_only=True) for folder in (out, tmp_path / "run")]
        for key, value in states[0]["learner"].items():
            assert torch.equal(value, states[1]["learner"][key]), key


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": "imagenet"}, "imagenet"),
        ({"known": [0, 1, 99]}, "99"),
        ({"rule": "nonsense"}, "unknown scoring rule"),
        ({"recipe": "slow"}, "unknown recipe"),
        ({"recipe_config": {"lr": 1}}, "no setting 'lr'"),
        ({"architecture": "nowhere.json"}, "nowhere.json"),
        ({"splits": "4-2"}, "splits must look like"),
        ({"splits": "9"}, "split"),
        ({"device": "cuda:77"}, "cuda:77"),
        ({"objective_config": {"temperatur": 1.0}}, "temperatur"),
        ({"epochs": 0}, "epochs must be greater than 0"),
        ({"stem": "dense"}, "unknown stem 'dense': choose from strided, pooled"),
        (
            {"objective": "gmvae", "rule": None, "objective_config": {"subclusters": [1, 2]}},
            "lists 2 classes, there are 6",
        ),
        ({"protocol": "cifar10", "data_dir": "/nowhere"}, "/nowhere"),
    ],
)
def test_bad_requests_are_refused_in_one_line_and_leave_nothing(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as refused:
        run_retrain(RetrainRequest(**{**TINY, "out": str(tmp_path / "run"), **changes}), ["nas-osr"])
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    plan = run_retrain(RetrainRequest(**{**TINY, "out": str(tmp_path / "run"), "dry_run": True}), ["nas-osr"])
    assert plan["would_retrain"][0]["epochs"] == 2 and not (tmp_path / "run").exists()
