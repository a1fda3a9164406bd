"""A finished retraining, opened again: its network, its protocol and its data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from nas_osr.configuration import make_request, parse_range
from nas_osr.data.dataset import OpenSetData, load_data
from nas_osr.data.protocols import Protocol, find_unknown, with_unknown
from nas_osr.errors import UserError
from nas_osr.objectives import objective_class, resolve_objective_config
from nas_osr.plans import ObjectivePlan, given, import_plugins, objective_of
from nas_osr.requests import ObjectiveOptions, name_former_classes
from nas_osr.retrain.build import build_learner
from nas_osr.retrain.networks import check_network
from nas_osr.retrain.retrain_request import ReopenOptions, RetrainRequest
from nas_osr.runs.run_folder import RunFolder
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.training.fabric import make_fabric
from nas_osr.training.learner import Learner, restore_weights


@dataclass(frozen=True)
class KeptRun:
    """What the folder of one retraining says of it.

    Attributes:
        run: the folder.
        config: what its config.yaml asks for, with the folder of images asked for.
        network: the architecture of a discrete network, or the name of a baseline network.
        protocol: its classes and images.
        objective: what it has learned, and how it is judged.
    """

    run: RunFolder
    config: RetrainRequest
    network: Architecture | str
    protocol: Protocol
    objective: ObjectivePlan

    @property
    def mirrored(self) -> bool:
        """Whether it looks at mirror images, too, wherever it is used; see `Recipe.mirrored`."""
        return bool(self.config.recipe_config.get("mirrored")) and self.protocol.mirrors


@dataclass(frozen=True)
class Reopened(KeptRun):
    """A retraining as its folder keeps it, ready to be asked; `protocol` has the unknown source asked for.

    Attributes:
        learner: the trained `Learner` as Fabric wrapped it, in eval mode; `learner.infer` gives `Outputs`.
        data: the protocol's images; test images are opened by nothing but `data.test()`.
        fabric: where the learner is.
    """

    learner: Any
    data: OpenSetData
    fabric: Fabric


def read_run(run: RunFolder, data_dir: str | None = None) -> KeptRun:
    """Read what a run folder says, and check it. Nothing in it causes an import.

    Args:
        data_dir: folder of the images, where it is not the run's.

    Raises:
        UserError: it is not one retraining, or was made with a plug-in that is not loaded.
    """
    config = read_retrain_config(run)
    config = replace(config, data_dir=given(data_dir, config.data_dir))
    protocol = config.protocol_of(only_split(run, config))
    objective = keep_objective(config, protocol)
    if config.network is not None:
        check_network(config.network, protocol.image_shape, import_plugins=False)
    network = config.network or Architecture.load(run.path / "architecture.json")
    return KeptRun(run, config, network, protocol, objective)


def keep_objective(config: ObjectiveOptions, protocol: Protocol) -> ObjectivePlan:
    """What a run has learned; its rule is not looked up, since another may be asked for. Raises UserError."""
    name = objective_of(config)
    kind = objective_class(name, import_plugins=False)
    settings = resolve_objective_config(name, config.objective_config, protocol, "retrain")
    return ObjectivePlan(name, kind, settings, given(config.rule, kind.default_rule), config.rule_config)


def reopen(run: RunFolder, options: ReopenOptions, unknown: str | None = None, *, any_images: bool = False) -> Reopened:
    """Open the folder of one retraining again. Nothing in it causes an import, but the plug-ins that are named are.

    Args:
        unknown: a source whose test images all play the unknown, or a folder of images, instead of the protocol's.
        any_images: whether the known images may be others than those that the network was trained on.

    Raises:
        UserError: the folder is not a retraining that has a trained network, data or device are not there, or the known
            images are not those that the network was trained on.
    """
    import_plugins(options.plugin)
    kept = read_run(run, options.data_dir)
    config, protocol = kept.config, kept.protocol
    skip_broken = options.skip_broken or config.skip_broken
    others = None
    if unknown is not None:
        protocol = with_unknown(protocol, unknown, config.data_folder)
        others = find_unknown(unknown, config.data_folder)
        others.skip_broken = skip_broken
    precision = "32-true" if options.precision == "auto" else options.precision  # like the model that is used
    fabric = make_fabric(options.device, precision, options.threads)
    wrapped: Any = fabric.setup_module(load_learner(kept))
    wrapped.mark_forward_method("infer")
    wrapped.mark_forward_method("reconstruct")
    wrapped.eval()
    data = load_data(
        protocol,
        config.data_folder,
        limit_per_class=config.limit_per_class,
        unknown_source=others,
        skip_broken=skip_broken,
        quiet=False,
    )
    if not any_images and images_changed(run, data):
        raise UserError(
            f"{run.path}: the known images have changed since it was trained, so its figures would not be comparable: "
            "give the right folder with --data_dir"
        )
    return Reopened(run, config, kept.network, protocol, kept.objective, wrapped, data, fabric)


def images_changed(run: RunFolder, data: OpenSetData) -> bool:
    """Whether the known images are others than those that the run has learned from."""
    trained = trained_fingerprint(run)
    return trained is not None and trained != data.fingerprint()


def trained_fingerprint(run: RunFolder) -> str | None:
    """That of the known images that a run has learned from; None where it does not say."""
    recorded = run.read_provenance().get("data_fingerprint")
    return None if recorded is None else str(recorded).partition("+")[0]  # outliers follow the plus


def open_parts(folder: Path) -> list[RunFolder]:
    """The run folders of a retraining's splits and seeds, by name; or the one that `folder` itself is.

    Raises UserError when there is no run.
    """
    parts = sorted(part for part in folder.glob("split-*") if part.is_dir())
    return [RunFolder.open(part) for part in (parts or [folder])]


def read_retrain_config(run: RunFolder) -> RetrainRequest:
    """The configuration that a retraining left in its folder. Raises UserError when it is not one."""
    values, file = run.read_config(), run.path / "config.yaml"
    if "architecture" not in values:
        raise UserError(f"{file}: not the configuration of a retraining: evaluate needs one")
    if "image_size" not in values and values.get("protocol") == "folder":
        raise UserError(
            f"{file}: of an earlier version, which drew the validation images of own folders by the place of their "
            "class, so they cannot be told any more: train it again"
        )
    config = make_request(RetrainRequest, name_former_classes(RetrainRequest, values, str(file)), str(file))
    for name in ("protocol", "family", "objective", "rule"):
        if getattr(config, name) is None:
            raise UserError(f"{file}: not the configuration of a retraining: it names no {name}")
    return config


def only_split(run: RunFolder, config: RetrainRequest) -> int:
    """The split that a part of a retraining is of. Raises UserError when the folder is of several."""
    splits = parse_range("splits", config.splits)
    if len(splits) > 1:
        raise UserError(f"{run.path}: of {len(splits)} splits, none of which has been trained yet")
    return splits[0]


def load_learner(kept: KeptRun) -> Learner:
    """The trained network of a run folder, on the CPU. Raises UserError when there is none or it does not fit."""
    run, network = kept.run, kept.network
    learner = build_learner(network, kept.protocol, kept.objective)
    learner.mirrored = kept.mirrored
    state = run.load_checkpoint()
    if state is None:
        raise UserError(f"{run.path}: no checkpoint.pt: the run has not trained anything yet")
    name = f"network {network}" if isinstance(network, str) else "architecture.json"
    what = f"{run.path}: checkpoint.pt does not fit {name}"
    try:
        best = state.get("best")  # where the recipe keeps another epoch than the last
        average = state.get("average", {}).get("weights", {})  # where it averages them
        restore_weights(learner, best["weights"] if best else {**state["learner"], **average}, what)
    except KeyError as error:
        raise UserError(f"{what}: {error} is missing") from error
    return learner
