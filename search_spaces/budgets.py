"""Hard limits on the size of a network, and the most probable architecture of a search within them.

A network's parameters, multiply-accumulates and latency are the sums of those of its pieces, and its memory goes by the
piece that needs most (`nas_osr.search_spaces.pieces`). So they are known without building one, and the best choice of
operations within a budget is found exactly, by dynamic programming over the cells.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from nas_osr.data.sources.base import Shape
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.latencies import LatencyTable
from nas_osr.search_spaces.pieces import NUMBER, Blocks, Piece, count_piece

FREE = frozenset({"activation", "pooling"})  # choices without weights or multiply-accumulates


class Sizes(NamedTuple):
    """Of a network or a piece of one, without heads."""

    parameters: int
    "how many numbers are learned."
    macs: int
    "multiply-accumulates of convolutions and matrix products for one image."
    nanoseconds: int = 0
    "of a batch, by a table of latencies; 0 without one."
    activations: int = 0
    "bytes of the maps that are needed at once for one image; see `Blocks.peaks`."

    @property
    def memory(self) -> int:
        """Bytes at prediction, in float32: of the parameters, and of the maps that are needed at once."""
        return NUMBER * self.parameters + self.activations

    def plus(self, other: Sizes) -> Sizes:
        """Of both together, one after the other."""
        return Sizes(
            self.parameters + other.parameters,
            self.macs + other.macs,
            self.nanoseconds + other.nanoseconds,
            max(self.activations, other.activations),
        )


@dataclass(frozen=True)
class Budget:
    """What a network may have at most, without its heads.

    Attributes:
        image_shape: (channels, height, width) of the images that it sees.
        parameters, macs: the limits; None is no limit.
        memory: bytes at prediction, see `Sizes.memory`.
        latency: milliseconds an image, by `table`.
        table: what the device takes; a limit on latency waits until it is there.
    """

    image_shape: Shape
    parameters: int | None = None
    macs: int | None = None
    memory: int | None = None
    latency: float | None = None
    table: LatencyTable | None = None

    def __bool__(self) -> bool:
        return any(limit is not None for limit in (self.parameters, self.macs, self.memory, self.latency))

    @property
    def limits(self) -> tuple[int | None, int | None, int | None, int | None]:
        """Of parameters, MACs, nanoseconds of a batch, and bytes at prediction."""
        timed = self.latency is not None and self.table is not None
        nanoseconds = self.table.limit(self.latency) if timed else None  # type: ignore[union-attr, arg-type]
        return self.parameters, self.macs, nanoseconds, self.memory

    @property
    def free(self) -> Collection[str]:
        """The choices of the network as a whole on which nothing that is limited depends."""
        return FREE if self.limits[2:] == (None, None) else FREE - {"activation"}

    def limited(self, sizes: Sizes) -> Sizes:
        """The same with 0 for what has no limit, on which nothing depends."""
        parameters, macs, nanoseconds, memory = (limit is not None for limit in self.limits)
        return Sizes(
            sizes.parameters if parameters or memory else 0,
            sizes.macs if macs else 0,
            sizes.nanoseconds if nanoseconds else 0,
            sizes.activations if memory else 0,
        )

    def admits(self, sizes: Sizes) -> bool:
        """Whether nothing is above its limit."""
        pairs = zip((*sizes[:3], sizes.memory), self.limits, strict=True)
        return all(limit is None or size <= limit for size, limit in pairs)

    def excess(self, sizes: Sizes) -> tuple[float, float]:
        """By which share of its limit the worst is above it, and the sum of all shares; 0 where nothing is above."""
        pairs = zip((*sizes[:3], sizes.memory), self.limits, strict=True)
        shares = [max(0.0, size / max(limit, 1) - 1) for size, limit in pairs if limit is not None]
        return max(shares, default=0.0), sum(shares)

    def fits(self, architecture: Architecture) -> bool:
        """Whether its network is within the budget."""
        if not self:
            return True
        return self.admits(network_sizes(architecture, self.image_shape, self.table, memory=self.memory is not None))


def network_sizes(
    architecture: Architecture, image_shape: Shape, table: LatencyTable | None = None, memory: bool = True
) -> Sizes:
    """Those of its discrete network, without building it; every operation must have been imported.

    Args:
        memory: whether activations are wanted, which take longer.
    """
    blocks = Blocks(architecture, image_shape)
    total = sum_pieces(blocks.pieces.values(), table)
    return total._replace(activations=max(blocks.peaks().values())) if memory else total


def sum_pieces(pieces: Collection[Piece], table: LatencyTable | None) -> Sizes:
    """Of all together, but for activations."""
    needs = [count_piece(piece) for piece in pieces]
    nanoseconds = 0 if table is None else sum(table.of(piece) for piece in pieces)
    return Sizes(sum(need.parameters for need in needs), sum(need.macs for need in needs), nanoseconds)
