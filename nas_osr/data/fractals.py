"""Fractals to mix images with: attractors of random iterated function systems, drawn by the chaos game."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from nas_osr.seeds import make_generator

COUNT = 256  # fractals that there are
BLOCK = 64  # drawn at once
MAPS = 3  # of a system
MARGIN = 1.5  # a fractal's sides over an image's, so that it can be cut out of anywhere
WALKERS, STEPS, SKIPPED = 256, 70, 10  # of a fractal; a walker's steps, and the first of them that are not drawn


def cut_fractals(count: int, images: Tensor, generator: torch.Generator) -> Tensor:
    """[count, C, H, W] like images [B, C, H, W]: a random part of a random fractal for each, perhaps mirrored."""
    _, channels, height, width = images.shape
    pool = all_fractals(channels, height, width, images.device)
    draws = torch.rand(4, count, generator=generator, device=generator.device).to(images.device)
    which = (draws[0] * len(pool)).long()
    top, left = ((draw * (size - side + 1)).long()
                 for draw, size, side in zip(draws[1:3], pool.shape[2:], (height, width), strict=True))  # fmt: skip
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device).expand(count, width)
    columns = left[:, None] + torch.where(draws[3, :, None] < 0.5, width - 1 - columns, columns)
    cut = pool[which[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # [count, H, W, C]
    return cut.permute(0, 3, 1, 2).to(images.dtype)


@lru_cache(maxsize=2)
def all_fractals(channels: int, height: int, width: int, device: torch.device) -> Tensor:
    """[COUNT, C, h, w] float32 in [0, 1], of `MARGIN` times these sides: always the same ones on one kind of machine.

    They are drawn on the CPU, where sums have one order.
    """
    generator = make_generator(0, "fractals")
    sides = math.ceil(MARGIN * height), math.ceil(MARGIN * width)
    found = torch.cat([draw_fractals(BLOCK, sides, generator) for _ in range(COUNT // BLOCK)])
    return (found if channels == 3 else found.mean(dim=1, keepdim=True)).to(device)


def draw_fractals(count: int, sides: tuple[int, int], generator: torch.Generator) -> Tensor:
    """[count, 3, h, w] in [0, 1]: each with a system, a colour for each of its maps, and a colour behind it."""
    linear, shift = random_systems(count, generator)
    maps, some = linear.shape[1], torch.arange(count)[:, None]
    colours, behind = torch.rand(count, maps + 1, 3, generator=generator).split([maps, 1], dim=1)
    chances = linear.det().abs().clamp_min(0.02)  # larger parts of the attractor are visited more often
    point, colour = torch.zeros(count, WALKERS, 2), torch.full((count, WALKERS, 3), 0.5)
    points, seen = [], []
    for _ in range(STEPS):
        chosen = torch.multinomial(chances, WALKERS, replacement=True, generator=generator)
        point = (linear[some, chosen] * point[..., None, :]).sum(dim=-1) + shift[some, chosen]
        colour = (colour + colours[some, chosen]) / 2  # as Draves and Reckase's flames are coloured
        points.append(point)
        seen.append(colour)
    place, tint = torch.cat(points[SKIPPED:], dim=1), torch.cat(seen[SKIPPED:], dim=1)
    low, high = place.amin(dim=1, keepdim=True), place.amax(dim=1, keepdim=True)
    pixel = ((place - low) / (high - low).clamp_min(1e-6) * torch.tensor(sides)).long()
    pixel = pixel.clamp(max=torch.tensor(sides) - 1)
    index = (pixel[..., 0] * sides[1] + pixel[..., 1])[..., None].expand(-1, -1, 4)
    sums = torch.zeros(count, sides[0] * sides[1], 4)
    sums.scatter_add_(1, index, torch.cat([tint, torch.ones_like(tint[..., :1])], dim=2))
    visits = sums[..., 3:]
    light = visits.log1p() / visits.amax(dim=1, keepdim=True).log1p()
    shown = light * sums[..., :3] / visits.clamp_min(1) + (1 - light) * behind
    return shown.transpose(1, 2).unflatten(2, sides)


def random_systems(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Affine maps of `count` systems of n = `MAPS`, all contracting: [count, n, 2, 2] and [count, n, 2].

    Each linear part is a rotation, two singular values s1 >= s2 below 1 in size, and a rotation; s2 may be negative. Of
    a system, the sum of s1 + 2 |s2| is (n + 5.5) / 2 or a little less, where attractors look neither like dust nor like
    a filled square (Anderson & Farrell 2022, "Improving fractal pre-training", section 3).
    """
    angles = 2 * math.pi * torch.rand(2, count, MAPS, generator=generator)
    values = torch.rand(count, MAPS, 2, generator=generator).clamp_min(0.05).sort(dim=2, descending=True).values
    weighted = (values * torch.tensor([1.0, 2.0])).sum(dim=(1, 2), keepdim=True)
    values = (values * (MAPS + 5.5) / 2 / weighted).clamp(max=0.95)
    values[..., 1] *= torch.where(torch.rand(count, MAPS, generator=generator) < 0.5, -1.0, 1.0)
    first, second = (rotation(angle) for angle in angles)
    return first @ torch.diag_embed(values) @ second, 2 * torch.rand(count, MAPS, 2, generator=generator) - 1


def rotation(angle: Tensor) -> Tensor:
    """[...] angles in radians -> [..., 2, 2]."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], dim=-1), torch.stack([sin, cos], dim=-1)], dim=-2)
