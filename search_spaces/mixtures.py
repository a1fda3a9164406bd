"""Choices of a supernet that are not made yet: logits, the probabilities that they stand for, and stems in parallel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

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


class Mixture(nn.Module):
    """A choice of the network as a whole: its logits, all equal at first.

    Attributes:
        probabilities: what turns logits into them; the supernet's.
    """

    def __init__(self, candidates: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.full((candidates,), INITIAL_LOGIT))
        self.probabilities = Tempered()

    def forward(self) -> Tensor:
        """[n], the probabilities of the candidates."""
        return self.probabilities(self.logits)  # type: ignore[no-any-return]


class MixedStem(nn.Module):
    """Several stems, whose maps are mixed; all must have as many channels at half resolution."""

    def __init__(self, stems: Sequence[nn.Module], mixture: Mixture) -> None:
        super().__init__()
        self.stems, self.mixture = nn.ModuleList(stems), mixture

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[B, c, H, W] -> [B, any, H/2, W/2] and [B, C, H/4, W/4]."""
        halves, quarters = zip(*(stem(images) for stem in self.stems), strict=True)
        p = self.mixture()
        return mix(p, halves), mix(p, quarters)
