"""The network that is retrained, with its heads: built from plain values, so that a run folder can rebuild it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from typing import Protocol as TypingProtocol

import torch
from torch import Tensor, nn

from nas_osr.errors import UserError
from nas_osr.plans import ObjectivePlan
from nas_osr.retrain.networks import check_network, network_class
from nas_osr.runs.run_folder import RunFolder
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.architectures.references import load_architecture, published_names
from nas_osr.search_spaces.checks import check_architecture
from nas_osr.search_spaces.network import DiscreteNetwork
from nas_osr.search_spaces.operations import operation_class
from nas_osr.search_spaces.space import Space
from nas_osr.search_spaces.stems import stem_class
from nas_osr.training.learner import Learner


def resolve_architecture(value: Any, space: Space, channels: int = 0, stem: str | None = None) -> Architecture:
    """The architecture that a user names.

    Args:
        value: its name or path, see `load_architecture`, or its JSON value.
        space: what a random one is drawn from; a published one has its stem.
        channels: another width C than its own; 0 is its own.
        stem: another stem, where one is named.

    Raises:
        UserError: there is no such architecture, or its operations or stem are not there.
    """
    if isinstance(value, dict):
        architecture = Architecture.from_dict(value, "architecture")
    elif isinstance(value, str):
        architecture = load_architecture(value, space)
        if value in published_names():
            stem = stem or space.stem
    else:
        raise UserError(f"architecture must be a name, a path or an object, got {value!r}")
    for operation in architecture.chosen_cells().values():
        operation_class(operation)
    stem_class(stem or architecture.stem, import_plugins=stem is not None)
    return architecture.with_network(channels, stem)


class Inputs(TypingProtocol):
    """What a network is built for: a `Protocol`, or what a model folder keeps of one. `num_known` is N."""

    @property
    def image_shape(self) -> tuple[int, int, int]: ...
    @property
    def mean(self) -> tuple[float, ...]: ...
    @property
    def std(self) -> tuple[float, ...]: ...
    @property
    def num_known(self) -> int: ...


def build_learner(
    network: Architecture | str,
    inputs: Inputs,
    objective: ObjectivePlan,
    outliers: Tensor | None = None,
    fill: Callable[[nn.Module], None] = lambda encoder: None,
) -> Learner:
    """The network and the objective's heads with fresh weights (from torch's global generator).

    Args:
        network: the architecture of a discrete network, or the name of a baseline network.
        inputs: the classes and images.
        objective: what it learns.
        outliers: see `ObjectivePlan.make`.
        fill: puts other weights into the network, before the heads look at it.

    Raises:
        UserError: the network does not fit the image size, or the objective the network; or a user's own class is not
            loaded, or does not do what it should.
    """
    channels = inputs.image_shape[0]
    encoder: nn.Module
    if isinstance(network, str):
        check_network(network, inputs.image_shape)
        encoder = network_class(network)(channels, inputs.mean, inputs.std, inputs.image_shape)
    else:
        check_architecture(network, inputs.image_shape)
        encoder = DiscreteNetwork(network, channels, inputs.mean, inputs.std)
    fill(encoder)
    heads = objective.make(encoder, inputs.image_shape, inputs.num_known, outliers)
    return Learner(encoder, heads).to(memory_format=torch.channels_last)


def save_architecture(network: Architecture | str, run: RunFolder) -> None:
    """Leave architecture.json in a run folder; a baseline network has none. Raises UserError."""
    if isinstance(network, Architecture):
        network.save(run.path / "architecture.json")
