"""The other figures: what is drawn is what the runs say; labels do not overlap; mistakes of a user are one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nas_osr.errors import UserError
from nas_osr.evaluation.predictions import read_predictions
from nas_osr.reports.detection import plot_histogram, plot_oscr, plot_roc
from nas_osr.reports.embeddings_map import plot_embedding
from nas_osr.reports.matrices import plot_confusion, pooled_confusion
from nas_osr.reports.method_curves import plot_openness, plot_subclusters, plot_tau
from nas_osr.reports.summaries import pareto_front, plot_bars, plot_pareto, plot_sensitivity
from nas_osr.reports.thumbnails import find_mistakes
from nas_osr.reports.training_curves import plot_history

from .conftest import make_predictions, search_records, subcluster_records

Method = Callable[..., Path]


def check_labels(figure: Figure) -> None:
    """No label of an axis lies on the next one, and axes that count have whole ticks."""
    FigureCanvasAgg(figure).draw()
    for axes in figure.axes:
        for axis, side in ((axes.xaxis, 0), (axes.yaxis, 1)):
            labels = [label for label in axis.get_ticklabels() if label.get_text() and label.get_visible()]
            low, high = sorted(axis.get_view_interval())
            shown = [
                label.get_window_extent() for label in labels
                if not label.get_rotation() and low <= label.get_position()[side] <= high
            ]  # fmt: skip
            intervals = sorted((box.intervalx if side == 0 else box.intervaly).tolist() for box in shown)
            assert all(first[1] <= second[0] + 1 for first, second in pairwise(intervals)), axes.get_title()


@pytest.mark.parametrize(
    "plot", [plot_roc, plot_oscr, plot_histogram, plot_confusion, plot_openness, plot_tau, plot_bars, plot_pareto]
)
def test_labels_do_not_overlap(plot: Callable[..., Figure], method: Method, tmp_path: Path) -> None:
    check_labels(plot(method(tmp_path / "a run with a longer name")))


def test_confusion_is_pooled_over_splits() -> None:
    both = [make_predictions(split, 1.5, 0) for split in (0, 1)]
    rows, columns, matrix, known = pooled_confusion(both)
    assert rows == ["a", "b", "c", "e", "c", "d", "e"] and known == 4
    assert columns == ["a", "b", "c", "e", "unknown"]
    assert np.nansum(matrix, axis=1) == pytest.approx(np.ones(len(rows)))
    table = {
        (row, place < known, column): matrix[place, at]
        for place, row in enumerate(rows)
        for at, column in enumerate(columns)
    }
    assert np.isnan(table["c", True, "e"]) and np.isnan(table["e", False, "e"])  # they never met
    rejected = [part.predicted_label[part.true_class == "d"] == part.num_known for part in both]
    assert table["d", False, "unknown"] == pytest.approx(np.concatenate(rejected).mean())
    guesses = both[1].predicted_label[both[1].true_class == "c"]
    assert table["c", False, "e"] == pytest.approx((guesses == 2).mean())
    rows, columns, matrix, _ = pooled_confusion(both, accepted=True)
    assert "unknown" not in columns
    kept = both[0].predicted_label[(both[0].true_class == "c") & (both[0].predicted_label < 3)]
    assert matrix[rows.index("c"), columns.index("c")] == pytest.approx((kept == 2).mean())
    closed = pooled_confusion(both[:1], closed=True)[2]
    assert closed[0, 0] == pytest.approx((both[0].closed_set_label[both[0].true_class == "a"] == 0).mean())


def test_confusion_shows_one_run(method: Method, tmp_path: Path) -> None:
    runs = [method(tmp_path / name, splits="0") for name in ("a", "b")]
    with pytest.raises(UserError, match="plot confusion: shows one run"):
        plot_confusion(runs)
    texts = {text.get_text() for text in plot_confusion(runs[0], accepted=True).axes[0].texts}
    assert texts and all(0 < int(text) <= 100 for text in texts)


def test_history_of_a_search(history: Callable[..., Path], tmp_path: Path) -> None:
    figure = plot_history(history(tmp_path / "search", search_records()))
    losses, scores, *small = figure.axes
    assert losses.lines[0].get_data()[1].tolist() == pytest.approx([3.0, 1.5, 1.0, 0.75])
    assert losses.get_yscale() == "log" and losses.lines[0].get_xdata().tolist() == [1, 2, 3, 4]
    assert [text.get_text() for text in scores.get_legend().get_texts()] == [
        "F1, supernet",
        "AUROC, supernet",
        "F1, decoded",
    ]
    assert [axes.get_title(loc="left") for axes in small] == [
        "layer 0, scale 1/4",
        "layer 1, scale 1/8",
        "layer 1, scale 1/8",
    ]
    assert small[1].lines[0].get_ydata().tolist() == pytest.approx([0.0, 0.2, 0.4, 0.6])
    for axes in figure.axes:
        assert all(float(tick).is_integer() for tick in axes.get_xticks())
    check_labels(figure)


def test_history_of_trials_and_of_several_runs(history: Callable[..., Path], tmp_path: Path) -> None:
    trials = [{"phase": "trial", "epoch": n, "losses": {"ce": 1.0}, "f1": 0.1 * n, "auroc": 0.5} for n in range(3)]
    figure = plot_history(history(tmp_path / "trials", trials))
    assert figure.axes[1].get_xlabel() == "trial" and figure.axes[1].lines[0].get_linestyle() == "None"
    plain = [
        {"losses": {"ce": 1.0 + n, "kl": 0.5}, "validation_accuracy": 0.5, "monitors": {"embedding_spread": 1.0}}
        for n in range(3)
    ]
    runs = {name: history(tmp_path / name, plain) for name in ("one", "two")}
    figure = plot_history(runs)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "sum of the losses", "accuracy, validation", "spread of embeddings",
    ]  # fmt: skip
    assert [line.get_ydata().tolist() for line in figure.axes[0].lines] == [[1.5, 2.5, 3.5]] * 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "two"]
    with pytest.raises(UserError, match=r"history.jsonl has no epoch"):
        plot_history(history(tmp_path / "empty", []))


def test_openness_is_the_mean_of_the_curves(method: Method, tmp_path: Path) -> None:
    run = method(tmp_path / "run")
    curves = [json.loads((run / f"split-{k}" / "metrics.json").read_text())["openness_f1_curve"] for k in (0, 1)]
    figure = plot_openness({"mine": run}, against="unknown_classes")
    x, y = figure.axes[0].lines[0].get_data()
    assert x.tolist() == [0, 1, 2] and all(float(tick).is_integer() for tick in figure.axes[0].get_xticks())
    assert y == pytest.approx([np.mean([curve[q]["macro_f1"] for curve in curves]) for q in range(3)])
    assert plot_openness(run).axes[0].lines[0].get_xdata()[2] == pytest.approx(curves[0][2]["openness_cac"])
    with pytest.raises(UserError, match="--against must be one of"):
        plot_openness(run, against="parameters")


def test_tau_marks_what_was_picked(method: Method, tmp_path: Path) -> None:
    run = method(tmp_path / "run", splits="0")
    [dot] = [line for line in plot_tau(run).axes[0].lines if len(line.get_xdata()) == 1]
    assert (dot.get_xdata()[0], dot.get_ydata()[0]) == (0.5, 0.8)
    file = run / "split-0" / "metrics.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "threshold_source": {"picker": "quantile"}}))
    with pytest.raises(UserError, match="tries no thresholds; run nas-osr evaluate"):
        plot_tau(run)


def test_subclusters_have_a_panel_for_each_class(history: Callable[..., Path], method: Method, tmp_path: Path) -> None:
    figure = plot_subclusters(history(tmp_path / "sub", subcluster_records()))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["cat", "dog"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["K = 1", "K = 2"]
    ends = [line.get_data() for line in figure.axes[0].lines if len(line.get_xdata()) == 1]
    assert [tuple(map(float, np.concatenate(end))) for end in ends] == [(50, 6.5), (49, 6.5), (50, 7.5), (49, 7.5)]
    with pytest.raises(UserError, match="not a choice of subclusters"):
        plot_subclusters(method(tmp_path / "run"))


def test_bars_of_one_protocol_and_of_several(method: Method, tmp_path: Path) -> None:
    for name, protocol in (("cac-cifar10", "cifar10"), ("mls-cifar10", "cifar10"), ("cac-svhn", "svhn")):
        method(tmp_path / name, protocol=protocol)
    results = [
        json.loads((tmp_path / "cac-cifar10" / f"split-{k}" / "metrics.json").read_text())["metrics"] for k in (0, 1)
    ]
    figure = plot_bars([tmp_path / "cac-cifar10", tmp_path / "mls-cifar10"], metric="fpr95")
    mean = 100 * np.mean([1 - result["tnr_at_95_tpr"] for result in results])
    assert figure.axes[0].patches[0].get_width() == pytest.approx(mean)
    assert figure.axes[0].get_xlabel().startswith("FPR95 (%)")
    figure = plot_bars(tmp_path)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["cac", "mls"]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["cifar10", "svhn"]
    with pytest.raises(UserError, match="no such metric; did you mean auroc"):
        plot_bars(tmp_path, metric="aurok")


def test_sensitivity_finds_the_setting(method: Method, tmp_path: Path) -> None:
    for weight in (0.01, 1.0, 0.1):
        method(tmp_path / f"w{weight}", shift=weight, objective_config={"anchor_weight": weight, "alpha": 10.0})
    figure = plot_sensitivity(tmp_path)
    axes = figure.axes[0]
    assert axes.get_xlabel() == "objective_config.anchor_weight" and axes.get_xscale() == "log"
    assert axes.lines[0].get_xdata().tolist() == [0.01, 0.1, 1.0]
    with pytest.raises(UserError, match="is no number that differs"):
        plot_sensitivity(tmp_path, setting="objective_config.alpha")
    with pytest.raises(UserError, match="none differs"):
        plot_sensitivity(tmp_path / "w1.0")


def test_more_images_are_a_setting_on_one_line(method: Method, tmp_path: Path) -> None:
    for images in (10, 20, 40):
        method(tmp_path / f"of-{images}", shift=images / 10, limit_per_class=images)
    axes = plot_sensitivity(tmp_path, setting="limit_per_class").axes[0]
    assert axes.lines[0].get_xdata().tolist() == [10, 20, 40] and axes.get_legend() is None


def test_the_front_is_what_no_other_beats() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        cost, value = generator.integers(0, 6, (2, 12))
        front = pareto_front(cost, value)
        points = list(zip(cost, value, strict=True))
        best = {(c, v) for c, v in points if not any((a <= c and b >= v) and (a, b) != (c, v) for a, b in points)}
        assert {points[place] for place in front} == best and len(front) == len(best)


def test_pareto_needs_one_protocol(method: Method, tmp_path: Path) -> None:
    for name, protocol in (("one", "cifar10"), ("two", "svhn")):
        method(tmp_path / name, protocol=protocol)
    with pytest.raises(UserError, match="of several protocols"):
        plot_pareto(tmp_path)
    assert plot_pareto(tmp_path / "one", against="macs").axes[0].get_xlabel() == "million multiply-accumulates an image"
    method(tmp_path / "few", protocol="cifar10", limit_per_class=50)
    with pytest.raises(UserError, match="several protocols, cifar10, cifar10, 50 images a class: name those"):
        plot_pareto([tmp_path / "one", tmp_path / "few"])
    bars = plot_bars([tmp_path / "one", tmp_path / "few"]).axes[0]
    assert [label.get_text() for label in bars.get_xticklabels()] == ["cifar10", "cifar10, 50 images a class"]


def test_mistakes_come_with_the_most_confident_first() -> None:
    found = make_predictions(0, 1.0, 0)
    accepted, rejected, wrong = find_mistakes(found)
    unknown, taken = found.true_label == 3, found.predicted_label < 3
    assert set(accepted) == set(np.flatnonzero(unknown & taken)) and len(accepted)
    assert set(rejected) == set(np.flatnonzero(~unknown & ~taken)) and len(rejected)
    assert set(wrong) == set(np.flatnonzero(~unknown & taken & (found.predicted_label != found.true_label))) and len(
        wrong
    )
    for places, sign in ((accepted, -1), (rejected, 1), (wrong, -1)):
        assert (np.diff(sign * found.knownness[places]) >= 0).all()


def test_logits_are_shown_with_the_anchors_of_cac(method: Method, tmp_path: Path) -> None:
    run = method(tmp_path / "run", objective_config={"alpha": 7.0})
    with pytest.raises(UserError, match="shows one split and seed"):
        plot_embedding(run, features="logits")
    part = run / "split-0"
    figure = plot_embedding(part, features="logits")
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["unknown", "a", "b", "c", "class mean", "anchor"]
    squares = np.array(
        [
            line.get_xydata()[0]
            for line in figure.axes[0].lines
            if line.get_marker() == "s" and len(line.get_xdata()) == 1
        ]
    )
    found = read_predictions(part / "predictions.csv")
    known = found.class_scores[found.true_label < 3]
    axes = np.linalg.svd(known - known.mean(axis=0))[2][:2]  # principal components, signs aside
    expected = (7.0 * np.eye(3) - known.mean(axis=0)) @ axes.T
    assert np.abs(squares) == pytest.approx(np.abs(expected))
    with pytest.raises(UserError, match=r"embeddings.npz: not there; make it first: nas-osr evaluate .* --embeddings"):
        plot_embedding(part)
    rows: Any = {"pooled": found.class_scores, "train_pooled": known, "true_label": found.true_label}
    np.savez(
        part / "embeddings.npz",
        **rows,
        train_label=found.true_label[found.true_label < 3],
        known_classes=np.array(["x", "y", "z"]),
    )
    for way in ("pca", "tsne"):
        assert len(plot_embedding(part, method=way).legends[0].get_texts()) == 5
    with pytest.raises(UserError, match="--method must be one of"):
        plot_embedding(part, method="umap")
