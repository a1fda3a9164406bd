"""`nas-osr score`: a run's outputs give its own metrics; hand-made logits against scikit-learn; mistakes by name."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

import nas_osr
from nas_osr.cli.main import main
from nas_osr.errors import UserError
from nas_osr.evaluation.predictions import Predictions, read_predictions
from nas_osr.evaluation.user_arrays import PER_CLASS, hold_out, read_arrays, read_parts
from nas_osr.metrics.open_set import Array
from nas_osr.outputs import Outputs
from nas_osr.scoring import RULES, rule_class

DOCS = Path(__file__).resolve().parents[3] / "docs" / "how-to" / "score.md"


def make_arrays(num_known: int = 3, seed: int = 0) -> dict[str, np.ndarray]:
    """Every field of every part: Gaussians around the classes' corners, unknown images around the origin."""
    generator = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}
    for part, size in (("train", 40 * num_known), ("validation", 20 * num_known), ("test", 20 * (num_known + 1))):
        labels = np.arange(size) % (num_known + (part == "test"))
        corners = np.vstack([4 * np.eye(num_known), np.zeros(num_known)])[labels]
        for field in Outputs.names():
            values = corners + generator.normal(size=corners.shape)
            arrays[f"{part}_{field}"] = (np.abs(values) if field == "latent_variance" else values).astype(np.float32)
        arrays[f"{part}_logits"] = 2 * arrays[f"{part}_embedding"] - 1  # of a linear layer
        arrays[f"{part}_labels"] = labels
    return arrays


def save(path: Path, arrays: dict[str, Any]) -> str:
    np.savez(path, **arrays)
    return str(path)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["score", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_page_describes_every_field() -> None:
    described = re.findall(r"`(\w+)`", re.split(r"\| field \|", DOCS.read_text())[1].partition("| rule |")[0])
    assert set(Outputs.names()) | {"labels", "test_labels", "test_classes"} == set(described)
    assert set(PER_CLASS) < set(Outputs.names())


def test_the_page_says_what_each_rule_needs() -> None:
    rows = re.findall(r"^\| (`.*) \| (.*) \|$", DOCS.read_text().partition("| rule | needs |")[2], flags=re.MULTILINE)
    needs = {rule: set(re.findall(r"`(\w+)`", text)) for rules, text in rows for rule in re.findall(r"`(\w+)`", rules)}
    assert needs == {name: set(rule_class(name).needs) for name in RULES}


def test_the_options_import_no_torch() -> None:
    code = "import sys, nas_osr.cli.score; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_outputs_of_a_run_give_its_own_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The exported outputs of a retrained network, scored by every rule that it feeds, as `evaluate` scores them."""
    from nas_osr.evaluation.judging import collect_outputs
    from nas_osr.retrain.model_reading import open_model
    from nas_osr.retrain.reopen import reopen
    from nas_osr.retrain.retrain_request import ReopenOptions
    from nas_osr.runs.run_folder import RunFolder
    from nas_osr.scoring import rules_for

    out = tmp_path / "run"
    common: dict[str, Any] = {"device": "cpu", "threads": 1, "bootstrap": 0}
    nas_osr.train(
        **common,
        protocol="digits",
        preset="tiny",
        limit_per_class=40,
        architecture="random:0",
        epochs=2,
        batch_size=32,
        quiet=True,
        out=str(out),
    )
    opened = reopen(RunFolder.open(out / "split-0"), ReopenOptions(device="cpu", threads=1))
    data, learner = opened.data, open_model(out).learner  # which knows the class means for CAP's first stage
    arrays: dict[str, Any] = {"test_classes": data.test().source_labels.numpy()}
    for part, images in (("train", data.train), ("validation", data.validation), ("test", data.test())):
        outputs = collect_outputs(learner.infer, images)
        arrays |= {f"{part}_{name}": getattr(outputs, name).numpy() for name in outputs.available()}
        arrays[f"{part}_labels"] = images.labels.numpy()
    file = save(tmp_path / "run.npz", arrays)

    rules = rules_for(type(learner.objective))
    assert {"cap", "msp", "nc_distance"} <= set(rules)
    for rule in set(rules) - {"odin", "knn_layers"}:
        (expected,) = nas_osr.evaluate(run=str(out), rule=rule, **common)
        code, text, error = run(capsys, file, "--rule", rule, "--bootstrap", "0", "--json")
        assert (code, error) == (0, "")
        found = json.loads(text)
        if rule_class(rule).needs_head:  # here the last layer is found by least squares
            assert found["metrics"] == pytest.approx(expected["metrics"], abs=0.02, nan_ok=True), rule
            assert found["threshold"] == pytest.approx(expected["threshold"], rel=1e-4), rule
            continue
        assert found["metrics"] == expected["metrics"], rule
        assert found["threshold"] == expected["threshold"], rule
        assert found["notes"] == [] or (rule_class(rule).fewest and "fewer than 5 known" in found["notes"][0]), rule


@pytest.mark.parametrize(
    ("rule", "by_hand"),
    [("msp", lambda z: (np.exp(z) / np.exp(z).sum(1, keepdims=True)).max(1)), ("mls", lambda z: z.max(1))],
)
def test_hand_made_logits_against_scikit_learn(rule: str, by_hand: Any) -> None:
    arrays = {name: values for name, values in make_arrays().items() if name.endswith(("_logits", "_labels"))}
    del arrays["train_logits"], arrays["train_labels"]  # nothing is fitted
    arrays |= {name: values.astype(np.float64) for name, values in arrays.items() if name.endswith("logits")}
    scored = nas_osr.score_arrays(arrays, rule)
    score, unknown = by_hand(arrays["test_logits"]), arrays["test_labels"] == 3
    assert scored.metrics["auroc"] == pytest.approx(roc_auc_score(~unknown, score), abs=1e-12)
    threshold = np.quantile(by_hand(arrays["validation_logits"]), 0.05)
    predicted = np.where(score < threshold, 3, arrays["test_logits"].argmax(1))
    assert scored.metrics["macro_f1"] == pytest.approx(f1_score(arrays["test_labels"], predicted, average="macro"))
    assert scored.images == {"validation": 60, "test": 80}
    assert scored.metrics["openness_cac"] is None
    assert scored.notes == (
        "no test_classes: of how many classes the unknown images are, and so the openness, is not known",
    )


def test_a_rule_that_asks_the_network_is_refused() -> None:
    with pytest.raises(UserError, match="'odin' asks the network itself: it needs more than arrays of outputs"):
        nas_osr.score_arrays(make_arrays(), "odin")


@pytest.mark.parametrize("rule", ["pytorch_ood.RMD", "pytorch_ood.KNN", "pytorch_ood.SHE", "pytorch_ood.MaxLogit"])
def test_a_bridged_rule_asks_for_what_its_detector_reads(rule: str) -> None:
    arrays, needs = make_arrays(), rule_class(rule).needs
    bare = {name: values for name, values in arrays.items() if name.partition("_")[2] in {"labels", *needs}}
    assert nas_osr.score_arrays(bare, rule).metrics["closed_set_accuracy"] > 0.5
    with pytest.raises(UserError, match=f"array .* is missing: scoring rule '{rule}' needs it"):
        nas_osr.score_arrays({name: bare[name] for name in bare if name != f"test_{min(needs)}"}, rule)


@pytest.mark.parametrize("rule", sorted(set(RULES) - {"odin", "knn_layers", "rotpred"}))
def test_every_rule_on_the_fields_that_it_needs(rule: str) -> None:
    arrays = make_arrays()
    wanted = {"labels", *rule_class(rule).needs}
    bare = {name: values for name, values in arrays.items() if name.partition("_")[2] in wanted}
    settings = {"k": 10} if rule == "knn" else {}  # there are 40 images a class
    scored, full = nas_osr.score_arrays(bare, rule, settings), nas_osr.score_arrays(arrays, rule, settings)
    assert scored.metrics == full.metrics
    assert scored.judgements.num_known == 3
    assert (full.judgements.column, scored.judgements.column) == ("logit", "logit" if "logits" in wanted else "score")
    # cap's reconstruction errors are made up the wrong way round: least for the unknown
    assert rule == "cap" or scored.metrics["auroc"] > 0.6
    assert scored.metrics["closed_set_accuracy"] > 0.9


def test_a_tenth_of_each_class_is_held_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = {name: values for name, values in make_arrays().items() if not name.startswith("validation")}
    keep = np.flatnonzero((arrays["train_labels"] != 2) | (np.arange(120) == 2))  # a single image of class 2
    arrays |= {name: values[keep] for name, values in arrays.items() if name.startswith("train")}
    file = save(tmp_path / "a.npz", arrays)
    code, out, _ = run(capsys, file, "--rule", "neighbours", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["images"] == {"train": 73, "validation": 8, "test": 80}
    assert found["notes"][0].startswith("no validation arrays: 8 of 81 training images, a tenth of each class, were")
    assert json.loads(run(capsys, file, "--rule", "neighbours", "--json")[1]) == found
    assert json.loads(run(capsys, file, "--rule", "neighbours", "--json", "--seed", "1")[1]) != found

    parts, _ = read_parts(arrays, ["train", "test"], frozenset({"embedding"}), "test")
    rest, held_out = hold_out(parts["train"], 0)
    assert rest.labels is not None and held_out.labels is not None
    assert np.bincount(rest.labels).tolist() == [36, 36, 1]
    assert np.bincount(held_out.labels).tolist() == [4, 4]
    rows = [*rest.fields["embedding"].tolist(), *held_out.fields["embedding"].tolist()]
    assert sorted(rows) == sorted(arrays["train_embedding"].tolist())


def test_table_and_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = make_arrays()
    arrays["test_classes"] = np.array(["cat", "dog", "owl", "fox"])[arrays["test_labels"]]
    arrays["test_classes"][-1] = "elk"  # two unknown classes
    file, out = save(tmp_path / "a.npz", arrays), tmp_path / "own.csv"
    code, text, error = run(capsys, file, "--rule", "neighbours", "--rule_config.k", "3", "--out", str(out))
    assert (code, error) == (0, "")
    assert re.search(r"^metric +value +from \(95 %\) +to \(95 %\)$", text, flags=re.MULTILINE)
    predictions = read_predictions(out)
    assert predictions.true_class[-4:].tolist() == ["cat", "dog", "owl", "elk"]
    np.testing.assert_array_equal(predictions.class_scores, arrays["test_logits"].astype(np.float64))
    expected = nas_osr.score_arrays(arrays, "neighbours", {"k": 3})
    assert read_predictions(out).metrics() == expected.metrics
    assert isinstance(expected.judgements, Predictions)
    assert expected.metrics["openness_gradmix"] == pytest.approx(1 - np.sqrt(3 / 5))
    for name, value in expected.metrics.items():
        assert re.search(rf"^{name} +{value:.4f}", text, flags=re.MULTILINE), name

    before = out.read_bytes()
    code, text, error = run(capsys, file, "--rule", "mls", "--out", str(out))
    assert (code, text) == (2, "")
    assert "is there already; add --overwrite" in error
    assert out.read_bytes() == before
    assert run(capsys, file, "--rule", "mls", "--out", str(out), "--overwrite")[0] == 0
    assert out.read_bytes() != before


def test_without_test_labels_there_are_only_predictions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = make_arrays()
    del arrays["test_labels"]
    file, out = save(tmp_path / "a.npz", arrays), tmp_path / "own.csv"
    code, text, _ = run(capsys, file, "--rule", "openmax", "--out", str(out))
    assert code == 0
    lines = out.read_text().splitlines()
    assert lines[0] == "index,predicted_label,closed_set_label,knownness,logit_0,logit_1,logit_2"
    predicted = np.array([int(line.split(",")[1]) for line in lines[1:]])
    counts = np.bincount(predicted, minlength=4).tolist()
    assert [line.split() for line in text.splitlines()] == [
        ["label", "images"],
        *([label, str(count)] for label, count in zip(["0", "1", "2", "unknown"], counts, strict=True)),
    ]
    found = json.loads(run(capsys, file, "--rule", "openmax", "--json")[1])
    assert (found["metrics"], found["intervals"], found["predicted"]) == ({}, {}, counts)


def change(name: str, values: Any) -> Any:
    return lambda arrays: arrays.update({name: values(arrays[name])})


def at(index: Any, value: float) -> Any:
    def put(values: np.ndarray) -> np.ndarray:
        values = values.copy()
        values[index] = value
        return values

    return put


def remove(prefix: str) -> Any:
    return lambda arrays: [arrays.pop(name) for name in list(arrays) if name.startswith(prefix)]


@pytest.mark.parametrize(
    ("rule", "spoil", "message"),
    [
        ("neighbours", remove("train_embedding"), "train_embedding is missing: scoring rule 'neighbours' needs it"),
        ("neighbours", remove("train_"), "train_.* is missing"),
        ("msp", remove("test_"), "test_logits is missing"),
        ("msp", remove("validation_labels"), "validation_labels is missing"),
        ("mls", lambda arrays: (remove("t")(arrays), remove("v")(arrays)), "no validation_ arrays: scoring rule 'mls'"),
        ("mls", lambda arrays: (remove("v")(arrays), remove("train_logits")(arrays)), "no validation_ arrays: scoring"),
        ("msp", lambda arrays: arrays.update(logits=1), "array 'logits' means nothing: names are train_, "),
        ("msp", lambda arrays: arrays.update(train_classes=1), "array 'train_classes' means nothing"),
        ("msp", change("test_logits", np.ravel), r"test_logits: expected a row of numbers .* got float32 \(240,\)"),
        ("msp", change("test_logits", lambda v: v[:0]), r"test_logits: expected a row .* got float32 \(0, 3\)"),
        ("msp", change("test_logits", lambda v: v.astype(str)), r"test_logits: expected a row .* got <U"),
        (
            "msp",
            change("test_logits", lambda v: v > 0),
            "test_logits: expected a row of numbers for each image, got bool",
        ),
        ("msp", change("validation_logits", at((7, 1), np.nan)), "validation_logits: row 7 holds a value that is not"),
        ("cac", change("train_logits", at((0, 0), np.inf)), "train_logits: row 0 holds a value that is not a finite"),
        ("msp", change("test_logits", lambda v: v[:, :2]), "test_logits has 2 columns, but validation_logits 3"),
        ("cap", change("train_latent_mean", lambda v: v[:9]), "train_latent_mean has 9 rows, but train_class_.* 120"),
        ("msp", change("test_labels", lambda v: v[:9]), "test_labels: expected 80 whole numbers, .* of test_logits"),
        ("msp", change("test_labels", lambda v: v / 2), r"test_labels: expected whole numbers, row 1 is 0\.5"),
        ("msp", change("test_labels", lambda v: v * np.nan), "test_labels: expected whole numbers, row 0 is nan"),
        ("msp", change("test_labels", lambda v: v == 3), "test_labels: holds flags; labels are classes"),
        ("neighbours", change("train_labels", lambda v: v > 0), "train_labels: holds flags"),
        ("msp", change("test_labels", lambda v: np.eye(4)[v]), r"test_labels: expected 80 whole numbers, .*\(80, 4\)"),
        ("msp", change("test_labels", lambda v: v[:, None]), r"test_labels: expected 80 whole numbers, .*\(80, 1\)"),
        (
            "msp",
            change("test_labels", lambda v: v.astype(str)),
            "test_labels is text, the labels of other parts are not",
        ),
        ("msp", change("test_labels", at(0, 4)), r"test_labels: 4 lies outside 0\.\.3"),
        ("msp", change("test_labels", at(0, -1)), "test_labels: holds both -1, which is unknown, and 3"),
        ("msp", change("test_labels", at(0, -2)), r"test_labels: -2 lies outside 0\.\.3"),
        ("msp", change("validation_labels", at(0, -1)), r"validation_labels: -1 lies outside 0\.\.2"),
        ("msp", change("validation_labels", at(0, 3)), r"validation_labels: 3 lies outside 0\.\.2; there are 3 known"),
        ("cac", change("train_labels", at(0, 2**62)), "train_labels: 4611686018427387904 lies outside"),
        ("neighbours", change("train_labels", lambda v: v % 2), "train_labels: class 2 of 0..2 has no image"),
        ("cac", lambda arrays: arrays.update(test_classes=np.arange(3)), "test_classes: expected 80 names or whole"),
        (
            "cac",
            lambda arrays: (remove("test_labels")(arrays), arrays.update(test_classes=np.arange(80))),
            "test_labels is missing, but test_classes is there",
        ),
        ("nothing", lambda arrays: None, "unknown scoring rule 'nothing'"),
    ],
)
def test_mistakes_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rule: str, spoil: Any, message: str
) -> None:
    arrays = make_arrays()
    spoil(arrays)
    code, out, error = run(capsys, save(tmp_path / "a.npz", arrays), "--rule", rule, "--out", str(tmp_path / "o.csv"))
    assert (code, out) == (2, "")
    assert re.search(message, error), error
    assert error.startswith("nas-osr: error: ") and error.count("\n") == 1
    assert not (tmp_path / "o.csv").exists()


def test_without_logits_the_labels_say_how_many_classes(tmp_path: Path) -> None:
    arrays = {name: values for name, values in make_arrays().items() if name.endswith(("embedding", "labels"))}
    arrays["train_labels"] = arrays["train_labels"].astype(np.uint64)
    scored = nas_osr.score_arrays(arrays, "neighbours")
    assert scored.judgements.num_known == 3
    arrays["train_labels"][arrays["train_labels"] == 1] = 2**63
    with pytest.raises(nas_osr.UserError, match="train_labels: class 1 of 0.* has no image"):
        nas_osr.score_arrays(arrays, "neighbours")
    single = {name: values[:3] if name.startswith("train") else values for name, values in make_arrays().items()}
    del single["validation_labels"]
    remove("validation")(single)
    with pytest.raises(nas_osr.UserError, match="no class has an image to spare"):
        nas_osr.score_arrays(single, "neighbours")
    with pytest.raises(nas_osr.UserError, match="array test_logits: .*inhomogeneous"):
        nas_osr.score_arrays({**make_arrays(), "test_logits": [[1.0], [1.0, 2.0]]}, "msp")


@pytest.mark.parametrize("kind", [np.float16, np.float64, np.longdouble, ">f4", np.int16, "fortran"])
def test_any_kind_of_number_is_read(tmp_path: Path, kind: Any) -> None:
    arrays = make_arrays()
    expected = np.round(arrays["test_logits"]).astype(np.float64)
    arrays["test_logits"] = np.asfortranarray(expected) if kind == "fortran" else expected.astype(kind)
    scored = nas_osr.score_arrays(read_arrays(save(tmp_path / "a.npz", arrays)), "mls")
    np.testing.assert_array_equal(scored.judgements.knownness, expected.max(axis=1))
    assert scored.judgements.class_scores.dtype == np.float64


def test_options_out_of_range(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = save(tmp_path / "a.npz", make_arrays())
    assert "bootstrap must not be negative" in run(capsys, file, "--rule", "msp", "--bootstrap", "-1")[2]
    assert "score: rule is missing" in run(capsys, file)[2]
    assert "'msp' has no setting k" in run(capsys, file, "--rule", "msp", "--rule_config.k", "1")[2]
    missing = str(tmp_path / "absent" / "own.csv")
    assert "cannot write: No such file" in run(capsys, file, "--rule", "msp", "--out", missing)[2]


NAMES = np.array(["cat", "dog", "owl", "fox"])  # fox is unknown


def relabelled(change: Callable[[Array], Array]) -> dict[str, Any]:
    """The arrays with other labels."""
    return {name: change(v) if name.endswith("_labels") else v for name, v in make_arrays().items()}


@pytest.mark.parametrize(
    "change",
    [
        lambda labels: np.where(labels == 3, -1, labels),
        lambda labels: labels.astype(np.float32),
        lambda labels: labels.astype(str),
        lambda labels: np.where(labels == 3, "unknown", labels.astype(str)),
        lambda labels: np.where(labels == 3, "-1", labels.astype(str)),
        lambda labels: np.where(labels == 3, "unknown", NAMES[labels]),
        lambda labels: np.where(labels == 3, "unknown", NAMES[labels]).astype(object),
        lambda labels: NAMES[labels],
        lambda labels: NAMES[labels].tolist(),
    ],
)
@pytest.mark.parametrize("rule", ["mls", "neighbours"])
def test_labels_may_be_written_as_people_do(rule: str, change: Callable[[Array], Any]) -> None:
    expected, scored = nas_osr.score_arrays(make_arrays(), rule), nas_osr.score_arrays(relabelled(change), rule)
    assert np.array_equal(scored.judgements.predicted_label, expected.judgements.predicted_label)
    figures = {name: value for name, value in scored.metrics.items() if not name.startswith("openness")}
    assert figures == {name: expected.metrics[name] for name in figures}
    named = str(change(np.array([0, 1, 2]))[0]) == "cat"
    assert scored.names == (("cat", "dog", "owl") if named else ("0", "1", "2"))
    assert any("taken in the order cat, dog, owl" in note for note in scored.notes) == named


def test_names_say_of_how_many_classes_the_unknown_images_are() -> None:
    arrays = relabelled(lambda labels: NAMES[labels])
    assert nas_osr.score_arrays(arrays, "mls").metrics["openness_cac"] is not None
    arrays["train_labels"] = arrays["train_labels"].astype("U9")
    arrays["train_labels"][0] = "unknown"
    with pytest.raises(nas_osr.UserError, match="train_labels: 'unknown' is no known class; only test images"):
        nas_osr.score_arrays(arrays, "neighbours")
    arrays["train_labels"] = np.arange(120) % 3
    with pytest.raises(nas_osr.UserError, match="is text, the labels of other parts are not"):
        nas_osr.score_arrays(arrays, "neighbours")


def test_flags_in_place_of_labels_are_noticed() -> None:
    arrays = make_arrays()
    assert not any("flags" in note for note in nas_osr.score_arrays(arrays, "mls").notes)
    arrays["test_labels"] = (arrays["test_labels"] < 3).astype(np.int64)  # 1 where an image is known
    assert any(
        "test_labels are 0 and 1 alone, of 3 classes" in note for note in nas_osr.score_arrays(arrays, "mls").notes
    )
