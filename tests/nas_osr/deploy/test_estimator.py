"""The scikit-learn estimator: its contract, and that it learns."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits, make_blobs
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

import nas_osr
from nas_osr import OpenSetClassifier, UserError
from nas_osr.deploy.estimator import names_network

QUICK: dict[str, Any] = {
    "network": "random:0", "preset": "tiny", "epochs": 2, "batch_size": 32, "device": "cpu", "options": {"channels": 4},
}  # fmt: skip
# What does not apply, and why: everything else of scikit-learn's checks does
NOT_A_CLASS_SCORE = "decision_function says how known an image is, and not which class it is; predict may say unknown"
NOT_APPLICABLE = {
    "check_classifiers_classes": NOT_A_CLASS_SCORE,
    "check_classifiers_train": NOT_A_CLASS_SCORE,
    "check_decision_proba_consistency": NOT_A_CLASS_SCORE,
}


@parametrize_with_checks([OpenSetClassifier(**QUICK)], expected_failed_checks=lambda estimator: NOT_APPLICABLE)
def test_contract(estimator: OpenSetClassifier, check: Any) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Images [n, 8, 8] of 0..16 and their digits."""
    bunch = load_digits()
    return bunch.images, bunch.target


@pytest.fixture(scope="module")
def fitted(digits: tuple[np.ndarray, np.ndarray]) -> OpenSetClassifier:
    """Digits 0 to 5, the first 600 of them."""
    X, y = digits
    known = np.flatnonzero(y < 6)[:600]
    options = {"threads": 1}
    return OpenSetClassifier("random:0", preset="tiny", epochs=8, device="cpu", options=options).fit(X[known], y[known])


def test_it_tells_digits_apart_and_notices_others(
    fitted: OpenSetClassifier, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    X, y = digits
    test = np.r_[np.flatnonzero(y < 6)[600:], np.flatnonzero(y >= 6)[:300]]
    known, predicted = y[test] < 6, fitted.predict(X[test])
    probabilities = fitted.predict_proba(X[test])
    assert fitted.classes_.tolist() == [0, 1, 2, 3, 4, 5] and fitted.unknown_label_ == -1
    assert (probabilities.argmax(1) == y[test])[known].mean() > 0.95
    assert roc_auc_score(known, fitted.decision_function(X[test])) > 0.85
    assert set(predicted.tolist()) == {-1, 0, 1, 2, 3, 4, 5}
    assert ((predicted == -1) == (fitted.decision_function(X[test]) < 0)).all()
    assert fitted.score(X[test], y[test]) == np.mean(predicted == np.where(known, y[test], -1)) > 0.7
    assert len(fitted.history_) == 8


def test_a_pickle_and_a_model_folder_say_the_same(
    fitted: OpenSetClassifier, digits: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    X = digits[0][:50]
    again = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(again.decision_function(X), fitted.decision_function(X))
    fitted.save(tmp_path / "model")
    model = nas_osr.load(tmp_path / "model", device="cpu")
    assert fitted.scale_ == (0.0, 16.0)
    assert model.model.inputs.file_shape == (1, 8, 8) and model.model.inputs.image_shape == (1, 16, 16)
    assert np.array_equal(model.decision_function(X / 16), fitted.decision_function(X))
    said = ["unknown" if label == -1 else str(label) for label in fitted.predict(X).tolist()]
    assert model.predict(X / 16).tolist() == said
    assert not hasattr(clone(fitted), "model_")


def test_flat_rows_and_images_are_the_same(digits: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = digits[0][:120], digits[1][:120]
    flat = OpenSetClassifier(**QUICK).fit(X.reshape(120, 64), y)
    for images in (X, X[:, None], X[..., None]):
        other = OpenSetClassifier(**QUICK).fit(images, y)
        assert np.array_equal(other.decision_function(images), flat.decision_function(X.reshape(120, 64)))
    shaped = OpenSetClassifier(**QUICK, image_shape=(1, 16, 4)).fit(X.reshape(120, 64), y)
    assert shaped.model_.model.inputs.image_shape == (1, 16, 16)
    with pytest.raises(ValueError, match="has not the 64 features"):
        OpenSetClassifier(**QUICK, image_shape=(1, 8, 9)).fit(X.reshape(120, 64), y)
    with pytest.raises(ValueError, match=r"shape \(8, 9\), OpenSetClassifier was fitted on \(8, 8\)"):
        OpenSetClassifier(**QUICK).fit(X, y).predict(np.zeros((2, 8, 9)))


@pytest.mark.parametrize(
    ("names", "unknown"), [(["ant", "bee"], "unknown"), ([True, False], -1), ([10, 3], -1), ([0.5, 1.5], -1)]
)
def test_labels_keep_their_type(names: list[Any], unknown: Any) -> None:
    X, y = make_blobs(60, n_features=9, centers=2, random_state=0)
    if isinstance(names[0], float):
        with pytest.raises(ValueError, match="continuous"):
            OpenSetClassifier(**QUICK).fit(X, np.array(names)[y])
        return
    fitted = OpenSetClassifier(**QUICK).fit(X, np.array(names)[y])
    assert fitted.classes_.tolist() == sorted(names)
    assert fitted.unknown_label_ == unknown
    far = np.concatenate([X, X[::-1] * -3])
    assert set(fitted.predict(far).tolist()) <= {*names, unknown}


def test_networks_by_name(
    digits: tuple[np.ndarray, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = digits[0][:120], digits[1][:120]
    fitted = OpenSetClassifier("plain:width=4", preset="tiny", epochs=1, device="cpu", options={"threads": 1}).fit(X, y)
    assert fitted.model_.model.network == "plain:width=4"
    monkeypatch.chdir(tmp_path)
    for name in ("resnet18", "timm:resnet10t", "torch.nn.Identity", "my.Net"):
        assert names_network(name)
    (tmp_path / "my.Net").mkdir()
    for name in ("published", "random:0", "found.json", "runs/search", "my.Net", {"space": {}}):
        assert not names_network(name)


def test_mistakes_are_said() -> None:
    X, y = make_blobs(30, n_features=9, centers=2, random_state=0)
    with pytest.raises(ValueError, match="unknown_label -1 is one of the classes"):
        OpenSetClassifier(**QUICK).fit(X, np.where(y == 0, -1, 1))
    assert OpenSetClassifier(**QUICK, unknown_label=9).fit(X, np.where(y == 0, -1, 1)).unknown_label_ == 9
    for label, names, kind in (("none of them", [0, 1], "a number"), (-1, ["ant", "bee"], "text")):
        with pytest.raises(ValueError, match=f"unknown_label {label!r} must be {kind}, as the labels are"):
            OpenSetClassifier(**QUICK, unknown_label=label).fit(X, np.array(names)[y])
    with pytest.raises(ValueError, match="class True has one image"):
        OpenSetClassifier(**QUICK).fit(X, np.arange(30) == 3)
    with pytest.raises(UserError, match="no such option|there is no option"):
        OpenSetClassifier(**{**QUICK, "options": {"speed": 3}}).fit(X, y)
    with pytest.raises(UserError, match="unknown objective"):
        OpenSetClassifier(**QUICK, objective="nothing").fit(X, y)


def test_bytes_and_shares_are_not_taken_for_each_other(digits: tuple[np.ndarray, np.ndarray]) -> None:
    """What one shows as an image is black, or white, for the other."""
    X, y = digits[0][:60] / 16, digits[1][:60]
    as_bytes = np.rint(255 * X).astype(np.uint8)
    for given, other in ((X, as_bytes), (as_bytes, X)):
        fitted = OpenSetClassifier(**{**QUICK, "epochs": 1}).fit(given, y)
        with pytest.raises(ValueError, match="give both alike"):
            fitted.predict(other)
        assert len(fitted.predict(as_bytes.astype(int) if given is as_bytes else X / 2)) == 60


def test_it_can_be_searched_over() -> None:
    X, y = make_blobs(60, n_features=16, centers=3, random_state=0)
    search = GridSearchCV(OpenSetClassifier(**QUICK), {"objective": ["cross_entropy", "cac"]}, cv=2).fit(X, y)
    assert set(search.cv_results_["param_objective"]) == {"cross_entropy", "cac"}
