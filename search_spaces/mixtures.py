"""Choices of a supernet that are not made yet: logits, what they weigh the candidates by, and stems in parallel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas_osr.search_spaces.layout import keep_layout, memory_format
from nas_osr.search_spaces.operations.parts import mix
from nas_osr.search_spaces.paper import INITIAL_LOGIT


class Tempered(nn.Module):
    """The softmax of logits over a temperature, which all choices share; the lower it is, the nearer to the largest."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature: Tensor  # a tensor, so that captured steps see its changes
        self.register_buffer("temperature", torch.ones(()), persistent=False)

    def forward(self, logits: Tensor) -> Tensor:
        """[n] -> [n], the probabilities."""
        return torch.softmax(logits / self.temperature, dim=-1)

    def of(self, prior: Sequence[float]) -> Prior:
        """The same where candidates of equal logits are not as likely, but as this prior has it."""
        return Prior(self, prior)


class Prior(nn.Module):
    """A prior times the tempered softmax, normalised. Not a part of the logits, which a temperature would sharpen."""

    def __init__(self, tempered: Tempered, prior: Sequence[float]) -> None:
        super().__init__()
        self.tempered = tempered
        self.log_prior: Tensor
        self.register_buffer("log_prior", torch.tensor(prior, dtype=torch.double).log(), persistent=False)

    def forward(self, logits: Tensor) -> Tensor:
        """[n] -> [n], the probabilities."""
        return torch.softmax(logits / self.tempered.temperature + self.log_prior.to(logits.dtype), dim=-1)


class Weigher(nn.Module):
    """What one choice's candidates weigh in a forward pass: their probabilities, unless something else is set.

    Attributes:
        expected: logits [n] -> probabilities [n].
        drawn: weights [n] in place of the probabilities; None leaves these.
        chosen: the one candidate that is evaluated, by `drawn` where that is set, else as it is; None is all.
    """

    def __init__(self, expected: nn.Module, candidates: int) -> None:
        super().__init__()
        self.expected = expected
        self.rows: Tensor
        self.register_buffer("rows", torch.eye(candidates), persistent=False)
        self.drawn: Tensor | None = None
        self.chosen: int | None = None

    def set(self, drawn: Tensor | None = None, chosen: int | None = None) -> None:
        """Until it is set again; without arguments the probabilities weigh."""
        self.drawn, self.chosen = drawn, chosen

    @property
    def wanted(self) -> Sequence[int]:
        """The candidates that are evaluated."""
        return range(len(self.rows)) if self.chosen is None else (self.chosen,)

    def forward(self, logits: Tensor) -> Tensor:
        """[n] -> [n], the weights."""
        if self.drawn is not None:
            return self.drawn
        return self.expected(logits) if self.chosen is None else self.rows[self.chosen]  # type: ignore[no-any-return]

    def pick(self, candidates: Sequence[Callable[[], Tensor]]) -> Tensor:
        """What the chosen candidate makes, weighed where a weight has been drawn; there must be one."""
        assert self.chosen is not None
        made = candidates[self.chosen]()
        return made if self.drawn is None else self.drawn[self.chosen].to(made.dtype) * made


class Mixture(nn.Module):
    """A choice of the network as a whole: its logits, all equal at first.

    Attributes:
        weigher: what turns logits into weights; the supernet's.
    """

    def __init__(self, candidates: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.full((candidates,), INITIAL_LOGIT))
        self.weigher = Weigher(Tempered(), candidates)

    @property
    def wanted(self) -> Sequence[int]:
        """See `Weigher.wanted`."""
        return self.weigher.wanted

    def forward(self) -> Tensor:
        """[n], the weights of the candidates."""
        return self.weigher(self.logits)  # type: ignore[no-any-return]

    def mix(self, candidates: Sequence[Callable[[], Tensor]]) -> Tensor:
        """The weighted sum of what the candidates make, of which only those wanted are asked."""
        if self.weigher.chosen is not None:
            return self.weigher.pick(candidates)
        return mix(self(), [make() for make in candidates])


class MixedStem(nn.Module):
    """Several stems, whose maps are mixed; all must have as many channels at half resolution."""

    def __init__(self, stems: Sequence[nn.Module], mixture: Mixture) -> None:
        super().__init__()
        self.stems, self.mixture = nn.ModuleList(stems), mixture

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[B, c, H, W] -> [B, any, H/2, W/2] and [B, C, H/4, W/4]."""
        made = {place: self.stems[place](images) for place in self.mixture.wanted}
        half, quarter = ([partial(_part, made, place, end) for place in range(len(self.stems))] for end in (0, 1))
        return self.mixture.mix(half), self.mixture.mix(quarter)


def _part(made: Mapping[int, tuple[Tensor, Tensor]], place: int, end: int) -> Tensor:
    return made[place][end]


def pass_by(made: Tensor, rest: Tensor, parts: int) -> Tensor:
    """Partial channels (Xu et al. 2020): what operations made of one part of the channels, beside the others.

    The others are as they are. Where the operations have halved the map and doubled the channels, each of the others is
    its maximum and its mean over 2x2 pixels (the authors, whose cells double no channels, have the maximum alone). Then
    the channels are shuffled, so that the next cell computes some of each part.

    Args:
        made: [B, C', h, w], of C/parts channels.
        rest: [B, C - C/parts, H, W], the other channels.
        parts: K.

    Returns:
        [B, parts * C', h, w].
    """
    if made.shape[-1] < rest.shape[-1]:
        rest = torch.cat([F.max_pool2d(rest, 2), F.avg_pool2d(rest, 2)], dim=1)
    together = torch.cat([made, rest], dim=1).unflatten(1, (parts, -1))
    return keep_layout(together.transpose(1, 2).flatten(1, 2).contiguous(memory_format=memory_format(made)))
