"""The model folder: a trained network with all that is needed to use it, written and opened.

    model.safetensors    weights of the network and its heads (`learner.NAME`), tensors of the fitted rule (`rule.NAME`)
    model.json           everything else, as plain values; docs/run-folder.md lists them

It opens without images, run folder or network, wherever it is moved. Nothing in it is executed or imported: classes of
a user's own must have been imported before (`import_plugins`). model.json is written last and holds the checksum of
model.safetensors, so that the two always belong together.
"""

from __future__ import annotations

import hashlib
import json
import math
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
from nas_osr.errors import UserError, show
from nas_osr.files.storage import file_errors, replace_file
from nas_osr.files.text import as_fields, as_integer, as_items, as_string, check_json_value, read_object
from nas_osr.objectives import objective_class
from nas_osr.plain import plain
from nas_osr.plans import ObjectivePlan
from nas_osr.plugins import make_config
from nas_osr.retrain.build import build_learner
from nas_osr.retrain.networks import check_network
from nas_osr.runs.names import MODEL_FOLDER, PROGRAM
from nas_osr.runs.provenance import versions
from nas_osr.scoring import check_rule, make_rule, rule_class
from nas_osr.scoring.base import ScoringRule
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.encoder import check_image_shape
from nas_osr.training.learner import Learner

MODEL_SCHEMA = 1
JSON_FILE, WEIGHTS_FILE = "model.json", "model.safetensors"
FIELDS = (
    "program", "schema", "network", "architecture", "objective", "rule", "class_thresholds", "classes", "image_shape",
    "file_shape", "mean", "std", "weights_sha256", "about",
)  # fmt: skip
MAX_WEIGHTS_BYTES = 4 << 30
MAX_SIDE = 2048  # pixels of an image
MAX_COUNT = 1 << 20  # a whole number in a rule's state
MAX_DEPTH = 12  # of nested values


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
    plan, network, inputs = model.objective, model.network, model.inputs
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
        **asdict(inputs),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "about": {"versions": versions(), **model.about},
    }
    text = json.dumps(plain(description, JSON_FILE), indent=2, sort_keys=True, allow_nan=False) + "\n"
    with file_errors(folder, "write"):
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".*.tmp"):  # by a process that was killed while it wrote
            left.unlink(missing_ok=True)
    for name, content in ((WEIGHTS_FILE, weights), (JSON_FILE, text.encode())):
        with replace_file(folder / name) as file:
            file.write(content)


def find_model(path: str | Path) -> Path:
    """The model folder that a path is or has: a part of a retraining, or a retraining of one part. Raises UserError."""
    folder = Path(path)
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


def open_model(path: str | Path) -> Model:
    """Open a model, on the CPU and in eval mode, and try it on an empty image. Nothing in it causes an import.

    Args:
        path: see `find_model`.

    Raises:
        UserError: it is missing, damaged, of another schema, or made with a plug-in that is not loaded.
    """
    folder = find_model(path)
    file = folder / JSON_FILE
    value = read_object(file)
    if value.get("program") != PROGRAM:
        raise UserError(f"{file}: not the description of a model of nas-osr")
    if value.get("schema") != MODEL_SCHEMA:
        raise UserError(f"{file}: schema {show(value.get('schema'))}, read is {MODEL_SCHEMA}: update nas-osr")
    as_fields(value, str(file), FIELDS)
    check_json_value(value, str(file), MAX_DEPTH)
    try:
        inputs = read_inputs(value)
        network = read_network(value, inputs)
        plan = read_objective(value)
        rule = make_rule(plan.rule, plan.rule_settings, import_plugins=False)
        limits = value["class_thresholds"]
        thresholds = None if limits is None else as_items(limits, "class_thresholds", as_number)
        if thresholds is not None and len(thresholds) != inputs.num_known:
            raise UserError(f"class_thresholds has {len(thresholds)} numbers for {inputs.num_known} classes")
        state = as_fields(value["rule"], "rule", ("name", "settings", "state"))["state"]
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    tensors = read_tensors(folder / WEIGHTS_FILE, value["weights_sha256"])
    with torch.random.fork_rng(devices=[]):
        learner = build_learner(network, inputs, plan)
    model = Model(network, plan, inputs, learner, rule, thresholds, dict(value["about"]))
    fill_model(model, tensors, state, folder)
    return model


def read_inputs(value: Mapping[str, Any]) -> ModelInputs:
    """Images and classes of a model.json. Raises UserError."""
    classes = as_items(value["classes"], "classes", as_string)
    if len(classes) < 1 or len(set(classes)) < len(classes):
        raise UserError("classes: expected different names, one at least")
    shape = read_shape(value["image_shape"], "image_shape")
    check_image_shape(shape)
    mean, std = (as_items(value[name], name, as_number) for name in ("mean", "std"))
    if len(mean) != shape[0] or len(std) != shape[0] or not all(deviation > 0 for deviation in std):
        raise UserError(f"mean and std: expected {shape[0]} numbers each, std above 0")
    files = value["file_shape"]
    return ModelInputs(classes, shape, mean, std, None if files is None else read_shape(files, "file_shape"))


def read_shape(value: Any, where: str) -> Shape:
    """(C, H, W) of grey or coloured images. Raises UserError."""
    shape = as_items(value, where, as_integer)
    if len(shape) != 3 or shape[0] not in (1, 3) or not all(1 <= side <= MAX_SIDE for side in shape[1:]):
        raise UserError(f"{where}: expected channels (1 or 3), height and width (1 to {MAX_SIDE})")
    return shape[0], shape[1], shape[2]


def as_number(value: Any, where: str) -> float:
    """The value as a finite number. Raises UserError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{where}: expected a finite number, got {show(value)}")
    return float(value)


def read_network(value: Mapping[str, Any], inputs: ModelInputs) -> Architecture | str:
    """The architecture of a model.json, or the name of another network. Raises UserError."""
    if (value["network"] is None) == (value["architecture"] is None):
        raise UserError("expected either network or architecture, and the other null")
    if value["architecture"] is not None:
        return Architecture.from_dict(value["architecture"], "architecture")
    name = as_string(value["network"], "network")
    check_network(name, inputs.image_shape, import_plugins=False)
    return name


def read_objective(value: Mapping[str, Any]) -> ObjectivePlan:
    """Objective and rule of a model.json. Raises UserError."""
    described = as_fields(value["objective"], "objective", ("name", "settings"))
    judged = as_fields(value["rule"], "rule", ("name", "settings", "state"))
    for where, settings in (("objective.settings", described["settings"]), ("rule.settings", judged["settings"])):
        if not isinstance(settings, dict):
            raise UserError(f"{where}: expected an object, got {show(settings)}")
    name, rule = as_string(described["name"], "objective.name"), as_string(judged["name"], "rule.name")
    kind = objective_class(name, import_plugins=False)
    check_rule(rule_class(rule, import_plugins=False), kind)
    settings = make_config(f"objective {name}", kind.config_class, described["settings"])
    return ObjectivePlan(name, kind, settings, rule, judged["settings"])


def read_tensors(file: Path, checksum: str) -> dict[str, Tensor]:
    """The tensors of model.safetensors, which has this sha256. Raises UserError when it has another or is damaged."""
    with file_errors(file, "read"):
        if not file.is_file():
            raise UserError(f"{file}: missing: copy the whole model folder")
        if file.stat().st_size > MAX_WEIGHTS_BYTES:
            raise UserError(f"{file}: larger than {MAX_WEIGHTS_BYTES >> 30} GiB")
        content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != checksum:
        raise UserError(f"{file}: damaged, or not the file that {JSON_FILE} belongs to: copy the model folder again")
    try:
        return safetensors.torch.load(content)
    except Exception as error:  # whatever the library finds wrong
        raise UserError(f"{file}: not a file of safetensors: {error}") from error


def fill_model(model: Model, tensors: Mapping[str, Tensor], state: Any, folder: Path) -> None:
    """Put what the files hold into network and rule, and judge an empty image. Raises UserError: they do not fit."""
    parts: dict[str, dict[str, Any]] = {"learner": {}, "rule": dict(state) if isinstance(state, dict) else {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        if part not in parts:
            raise UserError(f"{folder / WEIGHTS_FILE}: strange tensor {show(name)}")
        parts[part][rest] = tensor
    rule, found = model.rule, parts["rule"]
    names = {"threshold", *rule.learned}
    if set(found) != names:
        raise UserError(f"{folder}: the state of rule {rule.name} must be {', '.join(sorted(names))}")
    as_number(found["threshold"], f"{folder / JSON_FILE}: rule.state.threshold")
    for name, value in found.items():
        if isinstance(value, int) and abs(value) > MAX_COUNT:
            raise UserError(f"{folder / JSON_FILE}: rule.state.{show(name)[1:-1]} is too large")
    try:
        model.learner.load_state_dict(parts["learner"])
        rule.load_state_dict(found)
        model.learner.eval()
        with torch.inference_mode():
            scores = rule.scores(model.learner.infer(torch.zeros(1, *model.inputs.image_shape)))
        if scores.knownness.shape != (1,) or scores.class_scores.shape != (1, model.inputs.num_known):
            raise ValueError("scores of another shape")
        if scores.knownness.isnan().any() or scores.class_scores.isnan().any():
            raise ValueError("scores that are not numbers")
    except Exception as error:  # whatever tensors of wrong shapes bring about, in torch and in rules
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{folder}: the tensors do not fit the network or rule {rule.name}: {reason}") from error
