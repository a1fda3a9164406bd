"""The discrete network of an `Architecture`: plain torch.nn, built from the value alone, without nni."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from nas_osr.objectives.parts.pooling import SHARES, pool_branches
from nas_osr.outputs import Features
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.blocks import run_block
from nas_osr.search_spaces.encoder import Normalise
from nas_osr.search_spaces.ends import BOTTOM, make_neck, to_bottom
from nas_osr.search_spaces.layout import keep_layout
from nas_osr.search_spaces.operations import operation_class
from nas_osr.search_spaces.operations.parts import choose_activation, narrow, widen
from nas_osr.search_spaces.stems import stem_class

if TYPE_CHECKING:
    from nas_osr.search_spaces.supernet import Supernet


class Layout(NamedTuple):
    """Which forms of cells a network has, and what each reads."""

    routes: dict[int, list[str]]
    "by branch the names of the forms on its path."
    cells: dict[str, tuple[str, int, int]]
    "by name operation, scale and stride, in the order in which they are made."
    sources: dict[str, list[str]]
    "by cell what it adds up, the finer first; nothing in layer 0."
    order: list[str]
    "the names as they are computed: by layer and scale, so that the two forms of a cell follow each other."


def lay_out(architecture: Architecture) -> Layout:
    """What a network of this architecture is made of."""
    routes = {scale: cell_keys(branch.path, scale) for scale, branch in architecture.branches.items()}
    to_cells = {cell: cell_keys(way.path, cell[1]) for cell, way in architecture.joins.items()}
    cells: dict[str, tuple[str, int, int]] = {}
    sources: dict[str, list[str]] = {}
    for way, route in zip(architecture.ways(), [*routes.values(), *to_cells.values()], strict=True):
        for layer, key in enumerate(route):
            sources[cell_of(key)] = route[layer - 1 : layer] if layer else []
            cells.setdefault(key, (way.operations[layer], way.path[layer], 2 if key.endswith("halve") else 1))
    for (layer, scale), route in to_cells.items():
        cell = f"{layer}_{scale}"
        sources[cell] = sorted([*sources[cell], route[-1]])
    return Layout(routes, cells, sources, sorted(cells, key=_place))


def _place(key: str) -> tuple[int, int, bool]:
    layer, scale, form = key.split("_")
    return int(layer), int(scale), form == "halve"


class DiscreteNetwork(nn.Module):
    """Stem and the cells on the chosen ways, which share every cell up to where they part."""

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
        self.stem = stem_class(architecture.stem)(image_channels, architecture.channels(0))
        layout = lay_out(architecture)
        self.routes, self.sources, self.order = layout.routes, layout.sources, layout.order
        self.end = max(architecture.branches)
        bottom = architecture.branches[self.end]
        self.arrivals = (*bottom.path[1:], bottom.path[-1])  # the scales at which the cells on the way to 1/16 end
        self.cells = nn.ModuleDict()
        for key, (operation, here, stride) in layout.cells.items():
            channels = architecture.channels(here), architecture.channels(here + stride - 1)
            self.cells[key] = operation_class(operation)(*channels, stride)
        if self.end < BOTTOM:
            self.neck = make_neck(architecture.channels(self.end), architecture.space.channels << BOTTOM)
        self.shares: Tensor | None
        chosen = {"pooling", "output"} & architecture.choices.keys()
        self.register_buffer("shares", torch.tensor(SHARES[architecture.pooling]) if chosen else None, persistent=False)
        choose_activation(self, architecture.activation)

    def forward(self, images: Tensor) -> Features:
        """[B, C, H, W] in [0, 1] -> the map of each branch, and the last map at each scale on the way to 1/16."""
        half, quarter = run_block(self.stem, self.normalise(images), self.checkpointing)
        maps: dict[str, Tensor] = {}
        for key in self.order:
            sources = [maps[source] for source in self.sources[cell_of(key)]]
            x = sources[0] + sources[1] if len(sources) == 2 else sources[0] if sources else quarter
            maps[key] = run_block(self.cells[key], x, self.checkpointing)
        branches = {branch: keep_layout(maps[route[-1]]) for branch, route in self.routes.items()}
        bottom = zip(self.arrivals, self.routes[self.end], strict=True)
        last = {-1: half, 0: quarter, **{scale: maps[key] for scale, key in bottom}}
        if self.end < BOTTOM:
            branches = {self.end: keep_layout(self.neck(branches[self.end]))}
        pooled = None if self.shares is None else pool_branches(branches, self.shares)
        if self.end < BOTTOM:
            branches = {BOTTOM: to_bottom(branches[self.end], self.end)}
        return Features(branches, last, pooled)


class Widened(nn.Module):
    """A network before the heads of a wider one: every map has the wider one's channels, 0 where it has none itself."""

    def __init__(self, network: DiscreteNetwork, channels: int) -> None:
        super().__init__()
        self.network, self.channels = network, channels

    def forward(self, images: Tensor) -> Features:
        """As `DiscreteNetwork.forward`."""
        branches, last, pooled = self.network(images)
        if pooled is not None:  # branch by branch, coarsest first
            order = sorted(branches, reverse=True)
            parts = pooled.split([branches[scale].shape[1] for scale in order], dim=1)
            pooled = torch.cat([widen(part, self._of(s)) for s, part in zip(order, parts, strict=True)], dim=1)
        branches, last = ({s: widen(map_, self._of(s)) for s, map_ in part.items()} for part in (branches, last))
        return Features(branches, last, pooled)

    def _of(self, scale: int) -> int:
        return self.channels << scale if scale >= 0 else self.channels >> 1


def cell_keys(path: Sequence[int], end: int) -> list[str]:
    """The names of the cells on a way that ends at this scale: layer, scale and form, such as `1_0_halve`."""
    steps = zip(path, (*path[1:], end), strict=True)
    return [f"{layer}_{here}_{'halve' if there > here else 'keep'}" for layer, (here, there) in enumerate(steps)]


def cell_of(key: str) -> str:
    """Layer and scale of such a name: `1_0`."""
    return key.rpartition("_")[0]


def inherit_weights(network: DiscreteNetwork, supernet: Supernet, architecture: Architecture) -> None:
    """Copy the stem and the chosen operations of a supernet over the same architecture's space."""
    operations, mixed = supernet.space.operations, supernet.network
    stems = dict(zip(supernet.space.stems, mixed.stem.stems, strict=True)) if supernet.space.stems else {}
    _inherit(network.stem, stems.get(architecture.stem, mixed.stem))
    chosen = {f"{layer}_{scale}": name for (layer, scale), name in architecture.chosen_cells().items()}
    for key, cell in network.cells.items():
        forms = mixed.halve if key.endswith("halve") else mixed.keep
        candidates = dict(zip(operations, forms[cell_of(key)], strict=True))
        _inherit(cell, candidates[chosen[cell_of(key)]])
    if network.end < BOTTOM:
        _inherit(network.neck, mixed.necks[str(network.end)])


def _inherit(own: nn.Module, wider: nn.Module) -> None:
    shapes = {name: value.shape for name, value in own.state_dict().items()}
    own.load_state_dict({name: narrow(value, shapes[name]) for name, value in wider.state_dict().items()})
