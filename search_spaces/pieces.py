"""What a network is made of, piece by piece: the stem, each form of each cell, the neck; and what each of them needs.

So sizes of networks are known without building one. Parameters, multiply-accumulates and times add up; of activations
the most that is needed at once counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nas_osr.cost.steps import count_flops
from nas_osr.data.sources.base import Shape
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.encoder import Normalise
from nas_osr.search_spaces.ends import BOTTOM, make_neck
from nas_osr.search_spaces.network import Layout, cell_of, lay_out
from nas_osr.search_spaces.operations import ACTIVATIONS, operation_class
from nas_osr.search_spaces.operations.parts import choose_activation
from nas_osr.search_spaces.space import Cell
from nas_osr.search_spaces.stems import stem_class

NUMBER = 4  # bytes of a float32
STEM = "stem"


class Piece(NamedTuple):
    """A block of a network, at its place."""

    name: str
    "of what it is, for messages and files."
    make: Callable[..., nn.Module]
    "makes it of `arguments`."
    arguments: tuple[int, ...]
    "channels and stride."
    shape: Shape
    "(C, H, W) of what comes in."
    activation: str
    "of the network."

    @property
    def key(self) -> str:
        """One line that tells it from all other pieces."""
        return f"{self.name} {' '.join(map(str, self.arguments))} of {'x'.join(map(str, self.shape))} {self.activation}"

    def build(self) -> nn.Module:
        """It, in eval mode, with fresh weights."""
        piece = self.make(*self.arguments).eval()
        choose_activation(piece, self.activation)
        return piece


class Counts(NamedTuple):
    """How large a piece is."""

    parameters: int
    macs: int
    "for one image."
    out: Shape
    "of its map."


class Peaks(NamedTuple):
    """What a piece needs at once."""

    alone: int
    "bytes for one image, from its input to its output."
    held: int
    "the same where something else needs the input, too."
    passes: bool
    "whether its output is its input."


def count_piece(piece: Piece) -> Counts:
    """How large a piece is, whatever the activation; nothing is computed."""
    return _count(piece._replace(activation=ACTIVATIONS[0]))


@lru_cache(maxsize=4096)
def _count(piece: Piece) -> Counts:
    with torch.random.fork_rng(devices=[]), torch.device("meta"), torch.no_grad():
        built, given = piece.build(), torch.empty(1, *piece.shape)
        found: list[Any] = []
        flops = count_flops(lambda: found.append(built(given)))
    out = last(found[0]).shape
    return Counts(sum(parameter.numel() for parameter in built.parameters()), flops // 2, (out[1], out[2], out[3]))


@lru_cache(maxsize=4096)
def trace_piece(piece: Piece) -> Peaks:
    """What a piece needs at once; nothing is computed."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"), torch.no_grad():
        traced = Traced(piece.build(), torch.empty(1, *piece.shape))
    return Peaks(traced.peak(held=False), traced.peak(held=True), traced.made == traced.given)


def last(made: Any) -> Tensor:
    """The map that a piece makes; of the two of a stem the one at 1/4, since decoders alone read the other."""
    return made[-1] if isinstance(made, tuple) else made


class Traced(TorchDispatchMode):
    """Which tensors each operation of a module touches in a pass; views and what is changed in place are the same."""

    def __init__(self, module: nn.Module, given: Tensor) -> None:
        super().__init__()
        self.kept: list[Tensor] = []  # so that no two tensors have the same memory
        self.bytes: dict[int, int] = {}
        self.turns: list[set[int]] = []
        self.read: set[int] = set()
        self.weights = {self._place(tensor) for tensor in [*module.parameters(), *module.buffers()]}
        self.given = self._place(given)
        with self:
            self.made = self._place(last(module(given)))

    def _place(self, tensor: Tensor) -> int:
        self.kept.append(tensor)
        storage = tensor.untyped_storage()
        self.bytes[storage._cdata] = storage.nbytes()
        return storage._cdata

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        read, made = (
            {self._place(one) for one in tree_leaves(of) if isinstance(one, Tensor)} for of in ((args, kwargs), result)
        )
        self.read |= read
        self.turns.append((read | made) - self.weights)
        return result

    def peak(self, held: bool) -> int:
        """The most bytes of tensors that are needed at once: each from the operation that makes it to the last that
        reads it, the input from the start, and with `held` to the end. Weights do not count, nor what nobody reads."""
        turns = [{self.given}, *self.turns, {self.made} | ({self.given} if held else set())]
        begins: dict[int, int] = {}
        ends: dict[int, int] = {}
        for turn, touched in enumerate(turns):
            for place in touched & (self.read | {self.given, self.made}):
                begins.setdefault(place, turn)
                ends[place] = turn
        needed = ({place for place in begins if begins[place] <= turn <= ends[place]} for turn in range(len(turns)))
        return max(sum(self.bytes[place] for place in places) for places in needed)


class Pieces:
    """The pieces of the networks that have the choices of `like` as a whole.

    Attributes:
        stem: with the normalisation of images before it.
        sides: (height, width) of the maps at each scale.
    """

    def __init__(self, like: Architecture, image_shape: Shape) -> None:
        self.like = like
        kind = stem_class(like.stem)
        arguments = image_shape[0], like.channels(0)
        self.stem = Piece(f"{STEM} {like.stem}", _begin(kind), arguments, image_shape, like.activation)
        height, width = count_piece(self.stem).out[1:]
        self.sides = [(height, width)]
        for _ in range(BOTTOM):
            height, width = -(-height // 2), -(-width // 2)
            self.sides.append((height, width))

    def cell(self, operation: str, scale: int, stride: int) -> Piece:
        """A form of a cell."""
        channels = self.like.channels(scale), self.like.channels(scale + stride - 1)
        shape = (channels[0], *self.sides[scale])
        return Piece(operation, operation_class(operation), (*channels, stride), shape, self.like.activation)

    def neck(self) -> Piece | None:
        """What follows the last cell where that is not at 1/16."""
        end = max(self.like.branches)
        if end == BOTTOM:
            return None
        channels = self.like.channels(end), self.like.space.channels << BOTTOM
        return Piece("neck", make_neck, channels, (channels[0], *self.sides[end]), self.like.activation)


@lru_cache(maxsize=64)
def _begin(stem: Callable[[int, int], nn.Module]) -> Callable[[int, int], nn.Module]:
    def make(channels_in: int, channels: int) -> nn.Module:
        return nn.Sequential(Normalise((0.0,) * channels_in, (1.0,) * channels_in), stem(channels_in, channels))

    return make


class Blocks:
    """The pieces of one architecture's network, in the order in which it computes them, and which maps they read.

    Attributes:
        pieces: by name: `stem`, cells as `DiscreteNetwork` has them, `neck`.
        sources: by the same names, one or two.
        ends: the maps that leave the encoder.
    """

    def __init__(self, architecture: Architecture, image_shape: Shape) -> None:
        pieces, layout = Pieces(architecture, image_shape), lay_out(architecture)
        self.pieces: dict[str, Piece] = {STEM: pieces.stem}
        self.sources: dict[str, list[str]] = {STEM: []}
        for key in layout.order:
            self.pieces[key] = pieces.cell(*layout.cells[key])
            self.sources[key] = layout.sources[cell_of(key)] or [STEM]
        neck, last_maps = pieces.neck(), [route[-1] for route in layout.routes.values()]
        self.ends = last_maps if neck is None else ["neck"]
        if neck is not None:
            self.pieces["neck"], self.sources["neck"] = neck, last_maps

    def peaks(self) -> dict[str, int]:
        """For each piece the bytes that are needed at once while it is computed, for one image in float32: those of the
        piece itself, and of all maps that are read later on."""
        readers = Counter([source for sources in self.sources.values() for source in sources] + self.ends)
        roots: dict[str, str] = {}  # of a map the piece in whose memory it lies
        bytes_of: dict[str, int] = {}
        found = {}
        for name, piece in self.pieces.items():
            needs, sources, before = trace_piece(piece), self.sources[name], 0
            given = roots[sources[0]] if sources else None
            if len(sources) == 2:  # their sum is a map of its own
                given = f"into {name}"
                bytes_of[given] = bytes_of[roots[sources[0]]]
                before = sum(bytes_of[root] for root in _needed(readers, roots) | {given})
            readers.subtract(sources)
            others = _needed(readers, roots)
            inside = needs.held if given in others else needs.alone
            found[name] = max(before, inside + sum(bytes_of[root] for root in others - {given}))
            channels, height, width = count_piece(piece).out
            roots[name] = given if needs.passes and given is not None else name
            bytes_of.setdefault(roots[name], NUMBER * channels * height * width)
        return found


def _needed(readers: Mapping[str, int], roots: Mapping[str, str]) -> set[str]:
    return {root for name, root in roots.items() if readers[name] > 0}


def forms_of(layout: Layout) -> dict[Cell, list[str]]:
    """The names of the forms of each cell."""
    found: dict[Cell, list[str]] = {}
    for key in layout.order:
        layer, scale, _ = key.split("_")
        found.setdefault((int(layer), int(scale)), []).append(key)
    return found
