"""What weighs the candidates of a supernet while it is searched: their probabilities, or a sample of them each step.

softmax   the probabilities themselves (DARTS, Liu et al. 2019).
gdas      one candidate of each choice, by a hard Gumbel sample (GDAS, Dong & Yang 2019).
drnas     a sample of a Dirichlet distribution (DrNAS, Chen et al. 2021).

Samples are drawn from torch's global generator, so that a search that is resumed draws on.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Dirichlet
from torch.nn import functional as F

from nas_osr.search_spaces.mixtures import Prior, Tempered
from nas_osr.search_spaces.operations import NONE
from nas_osr.search_spaces.supernet import Supernet

SAMPLERS = ("softmax", "gdas", "drnas")
LEAST_CONCENTRATION = 0.01  # below it samples are 0 or 1 to the last bit, and their gradients not finite


def set_sampler(supernet: Supernet, name: str) -> None:
    """Let a supernet be weighed by this one of `SAMPLERS` from now on."""
    if name == "gdas":
        supernet.draw = HardGumbel(supernet)
    elif name == "drnas":
        for weigher in supernet.weighers.values():
            prior = weigher.expected.log_prior if isinstance(weigher.expected, Prior) else None
            weigher.expected = Concentration(supernet.probabilities, prior)
        supernet.draw = draw_dirichlet


class HardGumbel:
    """GDAS: the largest of log p + Gumbel noise is evaluated alone, and the gradient is that of the soft sample.

    y = softmax((log p + g) / T), and the weight of the chosen candidate is 1 - stop(y) + y (eqs. 6 and 7). What is not
    chosen is not evaluated, and no gradient comes from it. In eval mode the most probable candidate is chosen; never
    `none`, which no network has. T is the temperature of the supernet, which does not sharpen p here.
    """

    def __init__(self, supernet: Supernet) -> None:
        self.temperature = supernet.probabilities.temperature
        supernet.probabilities.temperature = torch.ones_like(self.temperature)

    def set_temperature(self, temperature: float) -> None:
        """Above 0."""
        self.temperature.fill_(temperature)

    def __call__(self, supernet: Supernet) -> None:
        """Draw a candidate of every choice."""
        soft, none = {}, supernet.space.operations.index(NONE) if NONE in supernet.space.operations else None
        for label, logits in supernet.architecture_parameters.items():
            p = supernet.weighers[label].expected(logits)
            if supernet.training:
                noise = -torch.empty_like(p).exponential_().log()
                p = torch.softmax((p.log() + noise) / self.temperature.to(p.device), dim=-1)
            elif none is not None and label.startswith("alpha_"):
                p = p - supernet.weighers[label].rows[none]
            soft[label] = p
        places = torch.stack([p.argmax() for p in soft.values()]).tolist()  # the device is waited for once
        for (label, p), place in zip(soft.items(), places, strict=True):
            weigher = supernet.weighers[label]
            weigher.set(weigher.rows[place] - p.detach() + p, place)


class Concentration(nn.Module):
    """DrNAS: the mean of a Dirichlet distribution with concentrations elu(logit / T) + 1 (sec. 3.2), times a prior.

    At equal logits the mean is the prior, and without one every candidate is as likely.
    """

    def __init__(self, tempered: Tempered, log_prior: Tensor | None) -> None:
        super().__init__()
        self.tempered = tempered
        self.prior: Tensor | None
        prior = None if log_prior is None else torch.softmax(log_prior, dim=0) * len(log_prior)
        self.register_buffer("prior", prior, persistent=False)

    def concentrations(self, logits: Tensor) -> Tensor:
        """[n] -> [n] float64, at least `LEAST_CONCENTRATION`."""
        found = F.elu(logits.double() / self.tempered.temperature) + 1
        return (found if self.prior is None else found * self.prior).clamp(min=LEAST_CONCENTRATION)

    def forward(self, logits: Tensor) -> Tensor:
        """[n] -> [n], the mean of the samples."""
        found = self.concentrations(logits)
        return (found / found.sum()).to(logits.dtype)


def draw_dirichlet(supernet: Supernet) -> None:
    """A sample of every choice, with its pathwise gradient; in eval mode their means weigh."""
    for label, logits in supernet.architecture_parameters.items():
        weigher = supernet.weighers[label]
        drawn = None
        if supernet.training:
            assert isinstance(weigher.expected, Concentration)
            found = Dirichlet(weigher.expected.concentrations(logits), validate_args=False).rsample()
            drawn = found.to(logits.dtype)
        weigher.set(drawn)
