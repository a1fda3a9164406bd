"""Opening a model folder: every value is checked before anything is built of it, and nothing in it is executed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from nas_osr.configuration import make_config
from nas_osr.data.sources.base import Shape
from nas_osr.errors import UserError, show
from nas_osr.files.storage import file_errors
from nas_osr.files.text import as_fields, as_integer, as_items, as_string, check_json_value, read_object
from nas_osr.objectives import OBJECTIVES, objective_class
from nas_osr.plans import ObjectivePlan
from nas_osr.retrain.build import build_learner
from nas_osr.retrain.model import (
    FIELDS,
    JSON_FILE,
    LATER_FIELDS,
    MODEL_SCHEMA,
    WEIGHTS_FILE,
    Model,
    ModelInputs,
    find_model,
)
from nas_osr.retrain.networks import NETWORKS, check_network
from nas_osr.retrain.networks.foreign import TIMM
from nas_osr.runs.names import PROGRAM
from nas_osr.scoring import check_rule, make_rule, rule_class
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.encoder import check_image_shape
from nas_osr.search_spaces.operations import OPERATIONS
from nas_osr.search_spaces.stems import STEMS

MAX_WEIGHTS_BYTES = 4 << 30
MAX_SIDE = 2048  # pixels of an image
MAX_COUNT = 1 << 20  # a whole number in a rule's state
MAX_DEPTH = 12  # of nested values


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
    as_fields(value, str(file), FIELDS, LATER_FIELDS)
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
        if not isinstance(value["about"], dict):
            raise UserError(f"about: expected an object, got {show(value['about'])}")
        mirrored = value.get("mirrored", False)
        if not isinstance(mirrored, bool):
            raise UserError(f"mirrored: expected true or false, got {show(mirrored)}")
        state = as_fields(value["rule"], "rule", ("name", "settings", "state"))["state"]
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    tensors = read_tensors(folder / WEIGHTS_FILE, value["weights_sha256"])
    if is_shipped(network, plan):
        check_sizes(network, inputs, plan, tensors, folder)
    with torch.random.fork_rng(devices=[]):
        learner = build_learner(network, inputs, plan)
    learner.mirrored = mirrored
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
    settings = make_config(f"objective {name}", kind.config_class, described["settings"])
    plan = ObjectivePlan(name, kind, settings, rule, judged["settings"])
    check_rule(rule_class(rule, import_plugins=False), kind, plan.side_task)
    return plan


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


def is_shipped(network: Architecture | str, plan: ObjectivePlan) -> bool:
    """Whether network and objective are made of this package's own classes."""
    if isinstance(network, str):
        return (network.partition(":")[0] in NETWORKS or network.startswith(TIMM)) and plan.name in OBJECTIVES
    operations = set(network.chosen_cells().values())
    return plan.name in OBJECTIVES and network.stem in STEMS and operations <= set(OPERATIONS)


def check_sizes(
    network: Architecture | str, inputs: ModelInputs, plan: ObjectivePlan, tensors: Mapping[str, Tensor], folder: Path
) -> None:
    """UserError unless the tensors have the names and shapes of this network's, which is given no memory for that.

    Sizes are read from a file: a network is built for those alone whose weights are there.
    """
    try:
        with torch.device("meta"):
            state = build_learner(network, inputs, plan).state_dict()
    except (RuntimeError, ValueError, OverflowError, MemoryError) as error:
        raise UserError(f"{folder / JSON_FILE}: no network can be built of this: {error}") from error
    wanted = {f"learner.{name}": list(value.shape) for name, value in state.items()}
    found = {name: list(value.shape) for name, value in tensors.items() if not name.startswith("rule.")}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            shapes = f"{found.get(name, 'missing')}, the network needs {wanted.get(name, 'none')}"
            raise UserError(f"{folder / WEIGHTS_FILE}: {show(name)} does not fit: it is {shapes}")


def fill_model(model: Model, tensors: Mapping[str, Tensor], state: Any, folder: Path) -> None:
    """Put what the files hold into network and rule, and judge an empty image. Raises UserError: they do not fit."""
    parts: dict[str, dict[str, Any]] = {"learner": {}, "rule": dict(state) if isinstance(state, dict) else {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts["rule" if part == "rule" else "learner"][rest] = tensor
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
            scores = rule.scores(rule.observe(model.learner.infer, torch.zeros(1, *model.inputs.image_shape)))
        if scores.knownness.shape != (1,) or scores.class_scores.shape != (1, model.inputs.num_known):
            raise ValueError("scores of another shape")
        if scores.knownness.isnan().any() or scores.class_scores.isnan().any():
            raise ValueError("scores that are not numbers")
    except Exception as error:  # whatever tensors of wrong shapes bring about, in torch and in rules
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{folder}: the tensors do not fit the network or rule {rule.name}: {reason}") from error
