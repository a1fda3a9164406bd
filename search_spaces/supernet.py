"""The hierarchical space (NAS-OSR): cells on three scales, mixed operations (alpha) and mixed paths (beta), in nni.

Layer l has a cell at each scale that the stem can reach and that can reach an enabled branch. A cell mixes its inputs
first and evaluates each of its forms once (paper, eq. 2). nni turns the space into the supernet of DARTS.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # nni warns of torch names that are newer than it
    from nni.nas.nn.pytorch import InputChoice, LayerChoice, ModelSpace
    from nni.nas.oneshot.pytorch.supermodule.differentiable import DifferentiableMixedInput, DifferentiableMixedLayer
    from nni.nas.strategy import DARTS

from nas_osr.objectives.parts.pooling import SHARES, pool_branches
from nas_osr.outputs import Features
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.blocks import run_block
from nas_osr.search_spaces.encoder import Normalise
from nas_osr.search_spaces.ends import BOTTOM, make_neck, to_bottom
from nas_osr.search_spaces.layout import keep_layout
from nas_osr.search_spaces.mixtures import MixedStem, Mixture, Tempered, Weigher, pass_by
from nas_osr.search_spaces.operations import operation_class
from nas_osr.search_spaces.operations.parts import mix_activations, mix_widths
from nas_osr.search_spaces.paper import INITIAL_LOGIT
from nas_osr.search_spaces.space import Cell, Space, count_paths, mixing_cells, predecessors
from nas_osr.search_spaces.stems import stem_class


class MixedOperation(DifferentiableMixedLayer):
    """nni's mixed layer, which evaluates one candidate alone where one is chosen.

    Attributes:
        partial_channels: K, of which one part of the channels goes through the candidates, see `pass_by`.
    """

    partial_channels = 1

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the weighted sum of what the candidates make of it."""
        if self.partial_channels == 1:
            return self.mixed(x)
        taken = x.shape[1] // self.partial_channels
        return pass_by(self.mixed(x[:, :taken]), x[:, taken:], self.partial_channels)

    def mixed(self, x: Tensor) -> Tensor:
        """The same of the channels that the candidates compute."""
        if self._softmax.chosen is None:
            return super().forward(x)  # type: ignore[no-any-return]
        return self._softmax.pick([partial(self[name], x) for name in self.names])


class MixedEdge(DifferentiableMixedInput):
    """nni's mixed input, of which one may be missing where the other is chosen."""

    def forward(self, maps: Mapping[int, Tensor]) -> Tensor:
        """The weighted sum of the inputs by their place, 0 the finer."""
        if self._softmax.chosen is None:
            return super().forward([maps[0], maps[1]])  # type: ignore[no-any-return]
        return self._softmax.pick([partial(maps.__getitem__, place) for place in (0, 1)])


class HierarchicalSpace(ModelSpace):
    """All cells in all forms, with nni's choices `alpha_L_S` (operation) and `beta_L_S` (0 finer, 1 same scale).

    Choices of the network as a whole are `Mixture`s of our own, since nni has none for what lies inside of operations.
    """

    checkpointing: bool = False  # see `nas_osr.search_spaces.blocks.run_block`

    def __init__(
        self,
        space: Space,
        image_channels: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        partial_channels: int = 1,
    ):
        super().__init__()
        self.space, self.cells, self.partial_channels = space, space.cells, partial_channels
        self.normalise = Normalise(mean, std)
        self.mixtures = {name: Mixture(len(candidates)) for name, candidates in space.choices.items()}
        if space.two_inputs:
            mixing = mixing_cells(space.layers, space.ends)
            self.mixtures |= {f"join_{layer}_{scale}": Mixture(2) for layer, scale in mixing}
        self.choices = nn.ModuleDict(self.mixtures)
        self.stem = self._stem(image_channels)
        self.keep, self.halve, self.inputs = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        for layer, scale in self.cells:
            key = f"{layer}_{scale}"
            ends = layer == space.layers - 1 and scale in space.ends
            if (layer + 1, scale) in self.cells or ends:  # else nothing takes the keeping form
                self.keep[key] = self._choice(layer, scale, 1)
            if (layer + 1, scale + 1) in self.cells:
                self.halve[key] = self._choice(layer, scale, 2)
            if (layer - 1, scale) in self.cells and (layer - 1, scale - 1) in self.cells:
                self.inputs[key] = InputChoice(2, 1, label=f"beta_{key}")
        bottom = space.channels << BOTTOM
        self.necks = nn.ModuleDict(
            {str(scale): make_neck(space.channels << scale, bottom) for scale in space.outputs if scale < BOTTOM}
        )
        if space.activations:
            mix_activations(self, space.activations, self.mixtures["activation"])
        self.shares: Tensor
        shares = [SHARES[name] for name in space.poolings or ("average",)]
        self.register_buffer("shares", torch.tensor(shares), persistent=False)

    def _stem(self, image_channels: int) -> nn.Module:
        space = self.space
        stems = [stem_class(name)(image_channels, space.channels) for name in space.stems or (space.stem,)]
        for stem in stems:
            self._mask(stem, 0)
        return MixedStem(stems, self.mixtures["stem"]) if space.stems else stems[0]

    def _mask(self, block: nn.Module, scale: int) -> None:
        if self.space.narrows:
            mix_widths(block, self.space.widths, self.mixtures[f"width_{scale}"])

    def _choice(self, layer: int, scale: int, stride: int) -> LayerChoice:
        channels = self.space.channels * 2**scale // self.partial_channels
        forms = {  # a module's name may hold no dot
            name.replace(".", ":"): operation_class(name)(channels, channels * stride, stride)
            for name in self.space.operations
        }
        for form in forms.values():
            self._mask(form, scale + stride - 1)
        return LayerChoice(forms, label=f"alpha_{layer}_{scale}")

    def forward(self, images: Tensor) -> Features:
        """[B, C, H, W] in [0, 1] -> the maps of the enabled branches, and the last map at each scale."""
        half, quarter = run_block(self.stem, self.normalise(images), self.checkpointing)
        inputs = {(0, 0): quarter}
        last = {-1: half, 0: quarter}
        branches: dict[int, Tensor] = {}
        wanted = self._wanted()
        for layer in range(self.space.layers):
            arriving: dict[int, dict[int, Tensor]] = {}  # by scale: from the finer one 0, from the same 1
            for scale in (s for l, s in self.cells if l == layer):
                for place, forms, target in ((1, self.keep, scale), (0, self.halve, scale + 1)):
                    if (layer, scale, target) in wanted:
                        map_ = run_block(forms[f"{layer}_{scale}"], inputs[layer, scale], self.checkpointing)
                        arriving.setdefault(target, {})[place] = map_
            for scale, maps in sorted(arriving.items()):
                map_ = self._join(f"{layer + 1}_{scale}", maps)
                last[scale] = map_
                if layer == self.space.layers - 1:
                    branches[scale] = keep_layout(map_)
                else:
                    inputs[layer + 1, scale] = map_
        return self._finish(branches, last)

    def _wanted(self) -> set[tuple[int, int, int]]:
        """The forms (layer, scale, scale of what takes it) that the output depends on, by what has been chosen."""
        ends = [self.space.outputs[place] for place in self.mixtures["output"].wanted] if self.space.outputs else None
        last = self.space.layers - 1
        found, pending = set(), [(last, scale, scale) for scale in ends or self.space.branches]
        while pending:
            form = pending.pop()
            if form in found:
                continue
            found.add(form)
            sources, key = predecessors(form[:2]), f"{form[0]}_{form[1]}"
            both = self.space.two_inputs and key in self.inputs and 1 in self.mixtures[f"join_{key}"].wanted
            if key in self.inputs and not both:
                weigher: Any = self.inputs[key]._softmax
                sources = [sources[place] for place in weigher.wanted]
            pending += [(*source, form[1]) for source in sources]
        return found

    def _join(self, key: str, maps: Mapping[int, Tensor]) -> Tensor:
        """One input of a cell, mixed by beta, or both, mixed again where that is a choice."""
        if key not in self.inputs:
            return next(iter(maps.values()))
        one = partial(self.inputs[key], maps)
        if not self.space.two_inputs:
            return one()  # type: ignore[no-any-return]
        return self.mixtures[f"join_{key}"].mix([one, lambda: maps[0] + maps[1]])

    def _finish(self, branches: dict[int, Tensor], last: dict[int, Tensor]) -> Features:
        """Mix the outputs, and what is pooled of each, where there is a choice."""
        if not self.space.outputs and not self.space.poolings:
            return Features(branches, last)
        shares = self.shares[0]
        if self.space.poolings:
            shares = (self.mixtures["pooling"]()[:, None] * self.shares).sum(dim=0)
        if not self.space.outputs:
            return Features(branches, last, pool_branches(branches, shares))
        maps: dict[int, Tensor] = {}
        for scale in branches:
            neck = self.necks[str(scale)] if scale < BOTTOM else nn.Identity()
            maps[scale] = keep_layout(neck(branches[scale]))

        def pooled_map(scale: int) -> Tensor:
            return pool_branches({scale: maps[scale]}, shares)

        def bottom_map(scale: int) -> Tensor:
            return to_bottom(maps[scale], scale)

        output = self.mixtures["output"]
        pooled, bottom = ([partial(make, s) for s in self.space.outputs] for make in (pooled_map, bottom_map))
        return Features({BOTTOM: output.mix(bottom)}, last, output.mix(pooled))


class Supernet(nn.Module):
    """The mixed network over a space: an encoder whose alphas and betas are parameters of their own.

    Attributes:
        network: the space after nni's mutation.
        architecture_parameters: label -> logits, in a fixed order; alphas are shared by the two forms of a cell, and
            gammas are of choices of the network as a whole, joins of whether a cell has one input or both.
        probabilities: turns logits into alphas and gammas.
        weighers: by label, what the candidates weigh; two forms of a cell share one.
        draw: called before each forward pass, to set them; None leaves them.
    """

    def __init__(self, mixed: HierarchicalSpace) -> None:
        super().__init__()
        self.space = mixed.space
        self.cells = mixed.cells
        strategy = DARTS(mutation_hooks=[MixedOperation.mutate, MixedEdge.mutate])
        self.network = strategy.mutate_model(mixed)
        named = {str(label): logits for label, logits in strategy._arch_parameters.items()}
        self.architecture_parameters: dict[str, nn.Parameter] = {label: named[label] for label in sorted(named)}
        for logits in self.architecture_parameters.values():
            nn.init.constant_(logits, INITIAL_LOGIT)
        self.mixtures = {
            name if name.startswith("join_") else f"gamma_{name}": mixture for name, mixture in mixed.mixtures.items()
        }
        self.architecture_parameters |= {label: mixture.logits for label, mixture in self.mixtures.items()}
        self.probabilities = Tempered()
        self.weighers: dict[str, Weigher] = {}
        for label, logits in self.architecture_parameters.items():
            expected = self.probabilities.of(_prior(label)) if label.startswith("beta_") else self.probabilities
            self.weighers[label] = Weigher(expected, len(logits))
        for label, mixture in self.mixtures.items():
            mixture.weigher = self.weighers[label]
        for module in self.network.modules():
            if isinstance(module, MixedOperation | MixedEdge):
                module._softmax = self.weighers[module.label]
            if isinstance(module, MixedOperation):
                module.partial_channels = mixed.partial_channels
        self.draw: Callable[[Supernet], None] | None = None

    def forward(self, images: Tensor) -> Features:
        """[B, C, H, W] in [0, 1] -> feature maps."""
        if self.draw is not None:
            self.draw(self)
        return self.network(images)

    def follow(self, architecture: Architecture) -> None:
        """From now on be the network of this architecture: one candidate of each choice is evaluated, on its ways only.

        Widths are masks, so that a narrower network costs as much as the widest.
        """
        space = self.space
        chosen = {f"gamma_{name}": items.index(architecture.choices[name]) for name, items in space.choices.items()}
        for (layer, scale), name in architecture.chosen_cells().items():
            chosen[f"alpha_{layer}_{scale}"] = space.operations.index(name)
        for way in (*architecture.joins.values(), *architecture.branches.values()):
            for layer, scale in enumerate(way.path):
                chosen[f"beta_{layer}_{scale}"] = 0 if layer and way.path[layer - 1] < scale else 1
        chosen |= {f"join_{layer}_{scale}": 1 for layer, scale in architecture.joins}
        for label, weigher in self.weighers.items():
            weigher.set(chosen=chosen.get(label, 0))

    def weight_parameters(self) -> list[nn.Parameter]:
        """Every parameter that is not an alpha or a beta."""
        architecture = {id(logits) for logits in self.architecture_parameters.values()}
        return [parameter for parameter in self.parameters() if id(parameter) not in architecture]

    def alphas(self) -> dict[Cell, tuple[float, ...]]:
        """Probability of each operation, for every cell."""
        return {cell: self._probabilities("alpha", cell) for cell in self.cells}

    def betas(self) -> dict[Cell, tuple[float, float]]:
        """Probability of the finer and of the same scale as a cell's source; (1, 0) or (0, 1) where it has one only."""
        result = {}
        for layer, scale in self.cells:
            if f"beta_{layer}_{scale}" in self.architecture_parameters:
                finer, same = self._probabilities("beta", (layer, scale))
                result[layer, scale] = (finer, same)
            else:
                result[layer, scale] = (1.0, 0.0) if (layer - 1, scale) not in self.cells and layer else (0.0, 1.0)
        return result

    def joins(self) -> dict[Cell, tuple[float, float]]:
        """Probability of one and of both inputs, for every cell that could have two; none where the space has not."""
        found = {}
        for layer, scale in mixing_cells(self.space.layers, self.space.ends) if self.space.two_inputs else ():
            one, both = self._probabilities("join", (layer, scale))
            found[layer, scale] = (one, both)
        return found

    def gammas(self) -> dict[str, tuple[float, ...]]:
        """Probability of each candidate, for every choice of the network as a whole."""
        return {name: self._as_probabilities(f"gamma_{name}") for name in self.space.choices}

    def set_temperature(self, temperature: float) -> None:
        """Above 0; 1 is the plain softmax."""
        self.probabilities.temperature.fill_(temperature)

    def _probabilities(self, kind: str, cell: Cell) -> tuple[float, ...]:
        return self._as_probabilities(f"{kind}_{cell[0]}_{cell[1]}")

    def _as_probabilities(self, label: str) -> tuple[float, ...]:
        logits = self.architecture_parameters[label].detach().double()
        return tuple(self.weighers[label].expected(logits).tolist())


def _prior(label: str) -> list[float]:
    """How many paths lead to a cell through each of its in-edges: by them all paths start equal."""
    _, layer, scale = label.split("_")
    return [float(count_paths(source)) for source in predecessors((int(layer), int(scale)))]


def build_supernet(
    space: Space, image_channels: int, mean: tuple[float, ...], std: tuple[float, ...], partial_channels: int = 1
) -> Supernet:
    """A supernet with fresh weights (from torch's global generator), in which all architectures are as likely.

    A user's own classes must have been imported (see `nas_osr.search_spaces.checks.check_space`).

    Args:
        partial_channels: K of PC-DARTS, see `nas_osr.search_spaces.mixtures.pass_by`; 1 is all channels.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        supernet = Supernet(HierarchicalSpace(space, image_channels, mean, std, partial_channels))
    logging.getLogger("nni").handlers.clear()  # nni writes its log to stdout, where results go
    return supernet
