"""What a retraining does, complete and frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from nas_osr.configuration import parse_range
from nas_osr.data.protocols import Protocol
from nas_osr.errors import UserError
from nas_osr.files.paths import user_path
from nas_osr.objectives import objective_class
from nas_osr.plans import (
    DataPlan,
    OutputPlan,
    SchedulePlan,
    decide_precision,
    given,
    import_plugins,
    plan_data,
    plan_machine,
    plan_objective,
    plan_output,
)
from nas_osr.plugins import check_name
from nas_osr.requests import DataOptions, ScheduleOptions, write_down
from nas_osr.retrain.build import resolve_architecture
from nas_osr.retrain.initial_weights import read_initial
from nas_osr.retrain.limits import within_limits
from nas_osr.retrain.networks import check_network, network_class
from nas_osr.retrain.networks.foreign import TIMM
from nas_osr.retrain.networks.starting_weights import PRETRAINED, read_weight_file
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.retrain.taking_over import read_origin, take_over
from nas_osr.retrain.train import TrainingPlan
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.encoder import check_image_shape
from nas_osr.search_spaces.presets import get_preset, preset_objective, space_of
from nas_osr.search_spaces.stems import STEMS
from nas_osr.training.recipes import make_recipe

FOUND = ("known", "unknown", "image_size", "grey")  # what a folder of own images may tell


@dataclass(frozen=True)
class Part:
    """One split and seed of a retraining: one network."""

    folder: str
    "its name inside the retraining's."
    seed: int
    "of everything that is random in it."
    training: TrainingPlan
    "what is trained."
    data: DataPlan
    "what it learns from."
    recorded: Mapping[str, Any]
    "what its config.yaml holds."


@dataclass(frozen=True)
class RetrainPlan:
    """A retraining."""

    parts: tuple[Part, ...]
    "its splits and seeds, at least one."
    output: OutputPlan
    "where it goes."
    bootstrap: int
    "resamples for the intervals of the metrics; 0 leaves them out."
    recorded: Mapping[str, Any]
    "what its config.yaml holds."


def plan_retrain(request: RetrainRequest) -> RetrainPlan:
    """The plan of a request. No image is opened. UserError: anything in the request is wrong."""
    filled, network, schedule = fill_request(request)
    parts = list_parts(filled, network, schedule)
    one_split = len({part.recorded["splits"] for part in parts}) == 1
    found = {name: parts[0].recorded[name] for name in FOUND} if one_split else {}
    return RetrainPlan(parts, plan_output(filled), filled.bootstrap, {**filled.recorded(), **found})


def plan_measured(request: RetrainRequest, protocol: Protocol) -> TrainingPlan:
    """What a request trains on a protocol, whichever it names itself. Raises UserError as `plan_retrain` does."""
    return plan_training(*fill_request(request), protocol)


def fill_request(request: RetrainRequest) -> tuple[RetrainRequest, Architecture | str, SchedulePlan]:
    """The request with every open field filled, and its network and schedule.

    What is open is the search's, or else the preset's or a default.

    Raises:
        UserError: a value is out of range, or there is no such thing.
    """
    request = replace(request)  # which is checked again: a script may have set a field
    import_plugins(request.plugin)
    check_network_options(request)
    where, searched = read_origin(request)
    request = take_over(request, searched, where)
    preset_name = given(request.preset, ScheduleOptions.preset)
    preset = get_preset(preset_name)
    learned = preset_objective(preset_name, request.objective, request.objective_config)
    recipe_name = given(request.recipe, preset.recipe)
    protocol = given(request.protocol, DataOptions.protocol)
    asked = dict(request.recipe_config)
    kind = objective_class(learned["objective"])
    if kind.makes_views:
        usual = make_recipe(recipe_name, {}, protocol).augmentation
        option = "--recipe_config.augmentation"
        asked["augmentation"] = kind.choose_augmentation(asked.get("augmentation"), usual, option)
    recipe = make_recipe(recipe_name, asked, protocol)
    epochs = given(request.epochs, preset.retrain_epochs)
    batch_size = request.batch_or(preset.retrain_batch_size)
    network: Architecture | str | None = request.network
    if network is None:
        found = resolve_architecture(request.architecture, space_of(request.space, preset_name), stem=request.stem)
        network = within_limits(found, preset.retrain_channels, request.channels, searched, where)
    filled = replace(
        request,
        protocol=protocol,
        family=given(request.family, DataOptions.family),
        splits=given(request.splits, "0"),
        limit_per_class=request.limit_per_class or None,
        preset=preset_name,
        **learned,
        rule=given(request.rule, kind.default_rule),
        architecture=network.to_dict() if isinstance(network, Architecture) else None,
        channels=0,
        stem=None,
        space=None,
        recipe=recipe_name,
        recipe_config=asdict(recipe),
        epochs=epochs,
        batch_size=batch_size,
    )
    return decide_precision(filled, preset_name), network, SchedulePlan(recipe, epochs, batch_size)


def list_parts(request: RetrainRequest, network: Architecture | str, schedule: SchedulePlan) -> tuple[Part, ...]:
    """Every split and seed of a request whose fields are filled. UserError: something is wrong, or does not fit."""
    splits, seeds = parse_range("splits", request.splits), parse_range("seeds", request.seeds)
    parts, asked = [], request
    for split in splits:
        request = write_down(asked, split)
        training = plan_training(request, network, schedule, request.protocol_of(split))
        data = plan_data(request, request.published_protocol(split), training.protocol, training.objective)
        settings = asdict(training.objective.settings)
        for seed in seeds:
            folder = f"split-{split}" if len(seeds) == 1 else f"split-{split}-seed-{seed}"
            part = training if request.init is None else begin_with(request.init, folder, training)
            own = replace(request, splits=str(split), seeds=str(seed), objective_config=settings)
            parts.append(Part(folder, seed, part, data, own.recorded()))
    return tuple(parts)


def begin_with(reference: str, folder: str, training: TrainingPlan) -> TrainingPlan:
    """The same training of the part `folder`, from a model's weights; see `read_initial`."""
    return replace(training, initial=read_initial(reference, folder, training.protocol, training.objective))


def plan_training(
    request: RetrainRequest, network: Architecture | str, schedule: SchedulePlan, protocol: Protocol
) -> TrainingPlan:
    """What a request whose fields are filled trains on a protocol. UserError: something is wrong, or does not fit."""
    check_image_shape(protocol.image_shape)
    schedule.recipe.check_installed()
    if isinstance(network, str):
        check_network(network, protocol.image_shape)
    objective = plan_objective(request, protocol, "retrain")
    objective.check_divided(schedule.batch_size)
    if schedule.recipe.watches and objective.kind.makes_views:
        raise UserError(
            f"recipe: keep best and patience follow the loss on images as they are, and {objective.name} learns from "
            "random views of them: leave --recipe_config.keep and --recipe_config.patience out"
        )
    return TrainingPlan(network, protocol, objective, schedule, plan_machine(request), weights=request.weights or "")


def check_network_options(request: RetrainRequest) -> None:
    """UserError unless a network is named in one way only, and what is asked of an architecture is asked of one."""
    if request.stem is not None:
        check_name("stem", request.stem, STEMS, "stem: ")
    if request.space is not None and not str(request.architecture).startswith("random:"):
        raise UserError("space is what a random architecture is drawn from: give it with random:SEED alone")
    if request.network is None:
        if request.weights is not None:
            raise UserError("weights are those of a --network: an architecture is trained from scratch")
        return
    network_class(request.network)
    if request.weights is not None and request.init is not None:
        raise UserError("weights and init are both given: leave one of them out")
    if request.weights == PRETRAINED and not request.network.startswith(TIMM):
        raise UserError(f"weights pretrained are those of timm:NAME: give a file for network {request.network}")
    if request.weights not in (None, PRETRAINED):
        read_weight_file(user_path(request.weights))
    if request.architecture not in (RetrainRequest.architecture, None):
        raise UserError("architecture and network are both given: leave one of them out")
    if request.channels:
        raise UserError(f"channels is the width of an architecture: network {request.network} has its own")
    if request.stem is not None:
        raise UserError(f"stem is a part of an architecture: network {request.network} has its own")
