"""The discrete network of an architecture with the weights of a supernet, as it would be judged by itself."""

from __future__ import annotations

import copy

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nas_osr.data.batches import iterate_batches, to_float
from nas_osr.data.dataset import LabelledImages
from nas_osr.evaluation.judging import INFERENCE_BATCH
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.network import DiscreteNetwork, Widened, inherit_weights
from nas_osr.search_spaces.supernet import Supernet
from nas_osr.strategies.base import SearchPlan


def inheriting(
    supernet: Supernet, architecture: Architecture, plan: SearchPlan, fabric: Fabric, sample: LabelledImages
) -> nn.Module:
    """The network of an architecture with a supernet's weights, in eval mode.

    Its BatchNorm statistics, which in the supernet are those of other inputs, are the means over `sample`, kept
    training images (Guo et al. 2020, sec. 3.4). Those of the heads stay.
    """
    network = plan.make_encoder(DiscreteNetwork, architecture)
    network.to(fabric.device, memory_format=torch.channels_last)
    inherit_weights(network, supernet, architecture)
    renew_statistics(network, fabric, sample)
    return Widened(network, plan.space.channels) if plan.space.widths else network


def following(
    supernet: Supernet, architecture: Architecture, plan: SearchPlan, fabric: Fabric, sample: LabelledImages
) -> nn.Module:
    """A copy of a supernet that is the network of an architecture, in eval mode, with statistics as in `inheriting`."""
    for weigher in supernet.weighers.values():
        weigher.set()  # what has been drawn cannot be copied
    copied = copy.deepcopy(supernet)
    copied.draw = None
    copied.follow(architecture)
    renew_statistics(copied, fabric, sample)
    return copied


def renew_statistics(network: nn.Module, fabric: Fabric, sample: LabelledImages) -> None:
    """Take BatchNorm's statistics anew, as means over all batches of a sample, and leave the network in eval mode."""
    norms = [module for module in network.eval().modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    with torch.no_grad(), fabric.autocast():
        for images, _ in iterate_batches(sample, INFERENCE_BATCH):
            network(to_float(images).contiguous(memory_format=torch.channels_last))
    network.eval()
