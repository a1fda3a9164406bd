"""The model folder: a trained network with all that is needed to use it, written and opened.

    model.safetensors    weights of the network and its heads (`learner.NAME`), tensors of the fitted rule (`rule.NAME`)
    model.json           everything else, as plain values; docs/reference/run-folder.md lists them
    README.md            the model card

It opens without images, run folder or network, wherever it is moved. Nothing in it is executed or imported: classes of
a user's own must have been imported before (`import_plugins`). model.json is written last and holds the checksum of
model.safetensors, so that the two always belong together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from nas_osr.data.dataset import OpenSetData
from nas_osr.data.protocols import Protocol
from nas_osr.data.sources import source_class
from nas_osr.data.sources.base import Shape
from nas_osr.errors import UserError
from nas_osr.files.paths import user_path
from nas_osr.files.storage import file_errors, replace_file
from nas_osr.plain import plain
from nas_osr.plans import ObjectivePlan
from nas_osr.retrain.model_card import check_card, format_card, write_card
from nas_osr.runs.names import MODEL_FOLDER, PROGRAM
from nas_osr.runs.provenance import versions
from nas_osr.scoring.base import ScoringRule
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.training.learner import Learner

MODEL_SCHEMA = 1
JSON_FILE, WEIGHTS_FILE = "model.json", "model.safetensors"
FIELDS = (
    "program", "schema", "network", "architecture", "objective", "rule", "class_thresholds", "classes", "image_shape",
    "file_shape", "mean", "std", "weights_sha256", "about",
)  # fmt: skip
LATER_FIELDS = ("mirrored",)  # which models of earlier versions lack


@dataclass(frozen=True)
class ModelInputs:
    """What the network is given, and the known classes that it tells apart.

    Attributes:
        classes: a name for each label 0..N-1; those of merged classes are joined by "+".
        image_shape: (C, H, W).
        mean, std: per channel, of images in [0, 1]; the network normalises by them itself.
        file_shape: (C, H, W) of the data set's own files, which are brought to `image_shape` by
            `nas_osr.data.sources.shapes.fit_shape`; None where files of any size are scaled and cropped to it at once.
    """

    classes: tuple[str, ...]
    image_shape: Shape
    mean: tuple[float, ...]
    std: tuple[float, ...]
    file_shape: Shape | None

    @property
    def num_known(self) -> int:
        """N."""
        return len(self.classes)


@dataclass(frozen=True)
class Model:
    """A trained network with a fitted rule.

    Attributes:
        network: the architecture of a discrete network, or the name of another one.
        objective: what it has learned, with the rule's name and settings.
        inputs: images and classes.
        learner: network and heads.
        rule: fitted, with its threshold.
        class_thresholds: a threshold for each predicted class instead; None: the rule's one for all.
        about: what is known of it besides, as plain values: protocol, metrics, versions ...
    """

    network: Architecture | str
    objective: ObjectivePlan
    inputs: ModelInputs
    learner: Learner
    rule: ScoringRule
    class_thresholds: tuple[float, ...] | None
    about: Mapping[str, Any]


def inputs_of(protocol: Protocol) -> ModelInputs:
    """What a network that is trained on a protocol is given."""
    source = source_class(protocol.source)
    shape = None if source.any_size else getattr(source, "file_shape", None)
    return ModelInputs(protocol.class_names, protocol.image_shape, protocol.mean, protocol.std, shape)


def about_model(evaluation: Mapping[str, Any], data: OpenSetData | None = None) -> dict[str, Any]:
    """What is known of a model: protocol and figures from its metrics.json, and how many images it learned from."""
    names = ("protocol", "metrics", "intervals", "test_images", "data_fingerprints", "parameters", "macs")
    about = {name: evaluation[name] for name in names if name in evaluation}
    if data is not None:
        labels = torch.cat([data.train.labels, data.validation.labels])
        counts = torch.bincount(labels, minlength=data.protocol.num_known).tolist()
        about["training_images"] = dict(zip(data.protocol.class_names, counts, strict=True))
    return about


def write_model(folder: Path, model: Model) -> None:
    """Write a model folder; made when absent, and what is in it replaced. Raises UserError when the disk refuses."""
    state = model.rule.state_dict()
    tensors = {f"learner.{name}": tensor for name, tensor in model.learner.state_dict().items()}
    tensors |= {f"rule.{name}": value for name, value in state.items() if isinstance(value, Tensor)}
    weights = safetensors.torch.save({name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
                                      for name, value in tensors.items()})  # fmt: skip
    description = describe_model(model, hashlib.sha256(weights).hexdigest())
    text = json.dumps(description, indent=2, sort_keys=True, allow_nan=False) + "\n"
    check_card(folder)
    with file_errors(folder, "write"):
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".*.tmp"):  # by a process that was killed while it wrote
            left.unlink(missing_ok=True)
    write_card(folder, format_card(description))
    for name, content in ((WEIGHTS_FILE, weights), (JSON_FILE, text.encode())):
        with replace_file(folder / name) as file:
            file.write(content)


def describe_model(model: Model, weights_sha256: str = "") -> dict[str, Any]:
    """What model.json holds, as plain values; `weights_sha256` is of model.safetensors."""
    plan, network, state = model.objective, model.network, model.rule.state_dict()
    description = {
        "program": PROGRAM,
        "schema": MODEL_SCHEMA,
        "network": network if isinstance(network, str) else None,
        "architecture": network.to_dict() if isinstance(network, Architecture) else None,
        "objective": {"name": plan.name, "settings": asdict(plan.settings)},
        "rule": {
            "name": plan.rule,
            "settings": plan.rule_settings,
            "state": {name: value for name, value in state.items() if not isinstance(value, Tensor)},
        },
        "class_thresholds": model.class_thresholds,
        **asdict(model.inputs),
        "mirrored": model.learner.mirrored,
        "weights_sha256": weights_sha256,
        "about": {"versions": versions(), **model.about},
    }
    return plain(description, JSON_FILE)  # type: ignore[no-any-return]


def find_model(path: str | Path) -> Path:
    """The model folder that a path is or has: a part of a retraining, or a retraining of one part. Raises UserError."""
    folder = user_path(path)
    with file_errors(folder, "read"):
        if not folder.exists():
            raise UserError(f"{folder}: no such model folder")
        found = [folder, folder / MODEL_FOLDER, *sorted(folder.glob(f"split-*/{MODEL_FOLDER}"))]
        models = [place for place in found if (place / JSON_FILE).exists()]
    if not models:
        raise UserError(
            f"{path}: no model: {JSON_FILE} is missing; a retraining leaves it at its end, and for one of an earlier "
            "version `nas-osr export RUN --format safetensors` writes it"
        )
    if len(models) > 1:
        raise UserError(f"{path}: has {len(models)} models: name one, such as {models[0]}")
    return models[0]
