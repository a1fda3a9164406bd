"""Run folders with made-up results, as retrainings and searches leave them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from nas_osr.data.protocols import make_protocol
from nas_osr.evaluation.predictions import Predictions, write_predictions
from nas_osr.retrain.retrain_request import RetrainRequest

SPLITS = {
    0: (["a", "b", "c"], ["d", "e"]), 1: (["a", "b", "e"], ["c", "d"]),
    2: (["a", "c", "e"], ["b", "d"]), 3: (["b", "d", "e"], ["a", "c"]),
}  # fmt: skip


def make_predictions(split: int, shift: float, seed: int, size: int = 120) -> Predictions:
    """Three known and two unknown classes; known images have a knownness that is larger by `shift`, with ties."""
    generator = np.random.default_rng([split, seed])
    known, unknown = SPLITS[split]
    names = np.array([*known, *unknown])
    classes = generator.integers(0, len(names), size)
    true = np.minimum(classes, len(known))
    scores = generator.normal(size=(size, len(known))).round(2)
    right = (true < len(known)) & (generator.random(size) < 0.8)
    scores[right, true[right]] = 4.0
    closed = scores.argmax(axis=1)
    knownness = (generator.normal(size=size) + shift * (true < len(known))).round(1)
    return Predictions(
        index=np.arange(size), true_label=true, true_class=names[classes], closed_set_label=closed, knownness=knownness,
        predicted_label=np.where(knownness < 0.5, len(known), closed), class_scores=scores,
    )  # fmt: skip


def write_method(
    folder: Path, shift: float = 2.0, splits: str = "0-1", seed: int = 0, protocol: str = "cifar10", **config: Any
) -> Path:
    """A finished retraining of one or two splits."""
    given = RetrainRequest(protocol=protocol, objective="cac", preset="small", splits=splits, family="arpl", **config)
    parts = {f"split-{split}": split for split in ((0, 1) if splits == "0-1" else (int(splits),))}
    for name, split in {"": None, **parts}.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "provenance.json").write_text(json.dumps({"program": "nas-osr", "finished": "now"}))
        own = {**given.recorded(), "architecture": None, "network": "resnet18"}
        own |= {} if split is None else {"splits": str(split)}
        (folder / name / "config.yaml").write_text(yaml.safe_dump(own))
        if split is not None:
            write_result(folder / name, make_predictions(split, shift, seed), protocol)
    return folder


def write_result(folder: Path, predictions: Predictions, protocol: str) -> None:
    write_predictions(folder / "predictions.csv", predictions)
    curve = {"tau": [0.0, 0.5, 1.0], "f1": [0.1, 0.8, 0.9]}
    result = {
        "metrics": predictions.metrics(), "openness_f1_curve": predictions.openness_curve(), "rule": "cac",
        "protocol": make_protocol(protocol).to_dict(), "threshold": 0.5, "parameters": 2_000_000, "macs": 5_000_000,
        "threshold_source": {"picker": "derivative", "tau": 0.5, "curve": curve},
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(result))


def write_history(folder: Path, records: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True)
    (folder / "provenance.json").write_text(json.dumps({"program": "nas-osr", "finished": None}))
    (folder / "history.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def search_records(epochs: int = 4) -> list[dict[str, Any]]:
    """A search of two layers, in the second of which the path may halve the resolution."""
    return [
        {
            "epoch": epoch, "phase": "search", "f1": 0.1 * epoch, "auroc": 0.5 + epoch / 10, "discrete_f1": 0.1,
            "losses": {"ce": 3.0 / (epoch + 1), "kl": 0.01, "architecture/ce": 2.0}, "monitors": {},
            "alpha": {"0/0": {"conv": 0.5, "skip": 0.5}, "1/1": {"conv": 0.2 * epoch, "skip": 1 - 0.2 * epoch}},
            "beta": {"0/0": {"same": 1.0, "finer": 0.0}, "1/1": {"same": 0.4, "finer": 0.6}},
            "branches": {"2": {"path": [0, 1], "operations": ["conv", "conv"]}},
        }
        for epoch in range(epochs)
    ]  # fmt: skip


def subcluster_records() -> list[dict[str, Any]]:
    return [
        {
            "class": name, "subclusters": count, "seed": seed,
            "curve": [{"covering": 5.0 + count + 0.1 * n, "reconstruction": 100.0 - 10 * n - seed} for n in range(6)],
        }
        for name in ("cat", "dog") for count in (1, 2) for seed in (0, 1)
    ]  # fmt: skip


@pytest.fixture
def method() -> Callable[..., Path]:
    return write_method


@pytest.fixture
def history() -> Callable[..., Path]:
    return write_history
