"""The discrete network of an `Architecture`: plain torch.nn, built from the value alone, without nni."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from nas_osr.outputs import Features
from nas_osr.search_spaces.architectures.architecture import Architecture, Branch
from nas_osr.search_spaces.blocks import run_block
from nas_osr.search_spaces.encoder import Normalise
from nas_osr.search_spaces.layout import keep_layout
from nas_osr.search_spaces.operations import operation_class
from nas_osr.search_spaces.stems import stem_class

if TYPE_CHECKING:
    from nas_osr.search_spaces.supernet import Supernet


class DiscreteNetwork(nn.Module):
    """Stem and the cells on the chosen paths; branches share every cell up to where their paths part."""

    checkpointing: bool = False  # see `nas_osr.search_spaces.blocks.run_block`

    def __init__(
        self,
        architecture: Architecture,
        image_channels: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        super().__init__()
        self.normalise = Normalise(mean, std)
        self.stem = stem_class(architecture.space.stem)(image_channels, architecture.space.channels)
        self.routes = {scale: cell_keys(branch) for scale, branch in architecture.branches.items()}
        bottom = architecture.branches[max(architecture.branches)]
        self.arrivals = (*bottom.path[1:], bottom.path[-1])  # the scales at which the cells on the way to 1/16 end
        self.cells = nn.ModuleDict()
        for scale, branch in architecture.branches.items():
            for layer, key in enumerate(self.routes[scale]):
                if key not in self.cells:
                    channels = architecture.space.channels * 2 ** branch.path[layer]
                    stride = 2 if key.endswith("halve") else 1
                    make = operation_class(branch.operations[layer])
                    self.cells[key] = make(channels, channels * stride, stride)

    def forward(self, images: Tensor) -> Features:
        """[B, C, H, W] in [0, 1] -> the map of each branch, and the last map at each scale on the way to 1/16."""
        half, quarter = run_block(self.stem, self.normalise(images), self.checkpointing)
        maps: dict[str, Tensor] = {}
        branches: dict[int, Tensor] = {}
        for branch, route in self.routes.items():
            x = quarter
            for key in route:
                if key not in maps:
                    maps[key] = run_block(self.cells[key], x, self.checkpointing)
                x = maps[key]
            branches[branch] = keep_layout(x)
        bottom = zip(self.arrivals, self.routes[max(self.routes)], strict=True)
        return Features(branches, {-1: half, 0: quarter, **{scale: maps[key] for scale, key in bottom}})


def cell_keys(branch: Branch) -> list[str]:
    """The names of a branch's cells in order: layer, scale and form, such as `1_0_halve`."""
    following = (*branch.path[1:], branch.path[-1])
    steps = zip(branch.path, following, strict=True)
    return [f"{layer}_{here}_{'halve' if there > here else 'keep'}" for layer, (here, there) in enumerate(steps)]


def inherit_weights(network: DiscreteNetwork, supernet: Supernet, architecture: Architecture) -> None:
    """Copy the stem and the chosen operations of a supernet over the same architecture's space."""
    operations = supernet.space.operations
    network.stem.load_state_dict(supernet.network.stem.state_dict())
    for scale, branch in architecture.branches.items():
        for layer, key in enumerate(network.routes[scale]):
            forms = supernet.network.halve if key.endswith("halve") else supernet.network.keep
            candidates = dict(zip(operations, forms[f"{layer}_{branch.path[layer]}"], strict=True))
            source = candidates[branch.operations[layer]]
            network.cells[key].load_state_dict(source.state_dict())
