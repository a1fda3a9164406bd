"""The network that is retrained, with its heads: built from plain values, so that a run folder can rebuild it."""

from __future__ import annotations

import torch
from torch import nn

from nas_osr.architecture import Architecture, SpaceDescription, load_architecture
from nas_osr.data.protocols import Protocol
from nas_osr.errors import UserError
from nas_osr.objectives import make_objective
from nas_osr.training import Learner
from retrain.config import RetrainConfig
from search_spaces.encoder import check_image_shape, feature_shapes
from search_spaces.network import DiscreteNetwork
from search_spaces.operations import get_operation
from search_spaces.presets import get_preset


def resolve_architecture(config: RetrainConfig) -> Architecture:
    """The architecture that a configuration names, at the width it asks for. Raises UserError."""
    if isinstance(config.architecture, dict):
        architecture = Architecture.from_dict(config.architecture, "architecture")
    elif isinstance(config.architecture, str):
        space = get_preset(config.preset).space
        description = SpaceDescription(space.layers, space.channels, space.operations)
        architecture = load_architecture(config.architecture, description, space.branches)
    else:
        raise UserError(f"architecture must be a name, a path or an object, got {config.architecture!r}")
    for branch in architecture.branches.values():
        for operation in branch.operations:
            get_operation(operation)
    if not config.channels:
        return architecture
    space_ = SpaceDescription(architecture.space.layers, config.channels, architecture.space.operations)
    return Architecture(space_, architecture.branches, architecture.found)


def build_learner(architecture: Architecture, protocol: Protocol, objective: str, objective_config: object) -> Learner:
    """The discrete network and the objective's heads with fresh weights (from torch's global generator).

    Raises UserError when the architecture does not fit the image size.
    """
    check_image_shape(protocol.image_shape)
    network: nn.Module = DiscreteNetwork(architecture, protocol.image_shape[0], protocol.mean, protocol.std)
    shapes = feature_shapes(network, protocol.image_shape)
    heads = make_objective(objective, shapes, protocol.image_shape, protocol.num_known, objective_config)
    return Learner(network, heads).to(memory_format=torch.channels_last)
