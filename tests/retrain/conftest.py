"""Folders of retrainings that were never trained: what they leave, with made-up figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from nas_osr.data.protocols import make_protocol
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.search_spaces.architectures.references import published


def write_retraining(
    folder: Path, aurocs: dict[str, float], protocol: str = "cifar10", family: str = "arpl", **config: Any
) -> Path:
    """A retraining's folder with one part for each of `aurocs`; the accuracy is 0.9 everywhere."""
    value = None if config.get("network") else published().to_dict()
    filled = {"objective": "vae_contrastive", "preset": "small", "splits": "0", **config}
    given = RetrainRequest(protocol=protocol, family=family, architecture=value, **filled).recorded()
    write_run(folder, given)
    for name, auroc in aurocs.items():
        split, _, seed = name.removeprefix("split-").partition("-seed-")
        write_run(folder / name, {**given, "splits": split, "seeds": seed or "0"})
        write_metrics(folder / name, auroc, make_protocol(protocol, family=family).to_dict())
    return folder


def write_run(folder: Path, config: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    (folder / "provenance.json").write_text(json.dumps({"program": "nas-osr", "finished": "now"}))
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def write_metrics(
    folder: Path, auroc: float | None, protocol: dict[str, Any], label: str = "", rule: str = "mls"
) -> None:
    metrics = {"auroc": auroc, "closed_set_accuracy": 0.9, "tnr_at_95_tpr": 0.25}
    about = {"rule": rule, "protocol": protocol, "parameters": 639_000, "macs": 2_500_000_000}
    name = f"metrics-{label}.json" if label else "metrics.json"
    (folder / name).write_text(json.dumps({"metrics": metrics, "label": label, **about}))
