"""PixMix (Hendrycks et al. 2022): images mixed, again and again, with fractals or with changed copies of themselves.

The paper mixes with 14,230 fractals and feature visualisations from the web. Here it is fractals alone, drawn when they
are first needed and always the same ones (`nas_osr.data.fractals`); and changes are of one strength, not of any up to
it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nas_osr.data.fractals import cut_fractals
from nas_osr.data.single_changes import PIXMIX, change_each

SMALLEST = 1e-37  # a value that is raised to a negative power


def pixmix(images: Tensor, rounds: int, blend: float, strength: float, generator: torch.Generator) -> Tensor:
    """Images [B, C, H, W] float32 in [0, 1], mixed: still in [0, 1].

    Half of the images are changed first. Then each is mixed 0 to `rounds` times, with itself changed (before all
    mixing) or with a fractal, by a sum or by a product.

    Args:
        rounds: k, at least 1 (4 in the paper).
        blend: beta: the larger, the more of an image stays at each of them (3 in the paper).
        strength: of the changes, in [0, 1] (.3 in the paper, at most).
        generator: the only source of randomness. On a GPU, each round waits for its draws.
    """
    uniform = torch.rand(2 + 5 * rounds, len(images), generator=generator, device=generator.device).to(images.device)
    turns = (uniform[0] * (rounds + 1)).long()
    mixed = torch.where(column(uniform[1] < 0.5), change_each(images, PIXMIX, strength, generator), images)
    for turn, (own, sums, *rest) in enumerate(uniform[2:].unflatten(0, (rounds, 5))):
        changed, with_fractal = (torch.nonzero((turns > turn) & chosen).flatten() for chosen in (own < 0.5, own >= 0.5))
        others = torch.cat([
            change_each(images[changed], PIXMIX, strength, generator),
            cut_fractals(len(with_fractal), images, generator),
        ])  # fmt: skip
        now = torch.cat([changed, with_fractal])
        own_weight, other_weight = mixing_weights(torch.stack([draw[now] for draw in rest]), blend)
        added = own_weight * (2 * mixed[now] - 1) + other_weight * (2 * others - 1)
        multiplied = (2 * mixed[now]) ** own_weight * (2 * others).clamp_min(SMALLEST) ** other_weight
        mixed[now] = torch.where(column(sums[now] < 0.5), (added + 1) / 2, multiplied / 2).clamp(0.0, 1.0)
    return mixed


def mixing_weights(uniform: Tensor, blend: float) -> tuple[Tensor, Tensor]:
    """Weights [B, 1, 1, 1] of an image and of what it is mixed with, from numbers [3, B] uniform in [0, 1).

    Beta(b, 1) and Beta(1, b) half of the time; else one more than Beta(1, b), and the negative of another one. Beta(b,
    1) is the b-th root of a uniform number, Beta(1, b) is one less it.
    """
    roots = uniform[:2] ** (1 / blend)
    together = uniform[2] < 0.5
    return column(torch.where(together, roots[0], 2 - roots[0])), column((1 - roots[1]) * (2.0 * together - 1))


def column(values: Tensor) -> Tensor:
    """[B] -> [B, 1, 1, 1]."""
    return values[:, None, None, None]
