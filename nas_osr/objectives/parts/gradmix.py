"""Mixing images with a batch mate: GradMix, and CutMix and Mixup as its ablations.

In all three a share s = gamma^2 of every image comes from its mate, and the loss on mixed images is weighted by s, so
that only what is mixed and where differs:

- GradMix: a box with sides gamma H and gamma W, on the most salient spot, filled with the mate's whole image, resized;
- CutMix: the same box anywhere, filled with what the mate has there;
- Mixup: (1 - s) times the image plus s times the mate.

gamma is one number for a batch. Sides are whole pixels, so s is the area that the box really has.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_osr.data.precision import outside_autocast

TIE = 1e-5  # saliencies that differ relatively by less are equal: resizing rounds


def random_mates(count: int, device: torch.device | str = "cpu") -> Tensor:
    """[count] int64: for each image the index of another, every image once; never itself unless it is alone."""
    order = torch.randperm(count, device=device)
    mates = torch.empty_like(order)
    mates[order] = order.roll(1)
    return mates


def draw_gamma(low: float, high: float) -> float:
    """gamma ~ U(low, high), from torch's global CPU generator, so that no device is waited for."""
    return low + (high - low) * float(torch.rand(()))


def box_size(gamma: float, height: int, width: int) -> tuple[int, int]:
    """(h, w) in whole pixels, at least 1, of the box with sides gamma H and gamma W; gamma in (0, 1]."""
    return max(1, round(gamma * height)), max(1, round(gamma * width))


def salient_boxes(maps: Tensor, box: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Top and left edge [B] int64 of boxes (h, w) centred on the largest value of maps [B, H, W], inside the image.

    A box that would stick out is shifted, not cut. Of equal maxima it is the one nearest to their middle: a coarse map
    has plateaus when it is resized, and a map of zeros has its peak in the middle of the image.
    """
    count, height, width = maps.shape
    peak = maps >= maps.amax(dim=(1, 2), keepdim=True) * (1 - TIE)
    rows = torch.arange(height, device=maps.device)[:, None].expand(height, width)
    columns = torch.arange(width, device=maps.device).expand(height, width)
    # distances from the middle, times the number of peaks: whole numbers, so that nothing is rounded
    number = peak.sum(dim=(1, 2))[:, None, None]
    off = [places * number - (peak * places).sum(dim=(1, 2))[:, None, None] for places in (rows, columns)]
    distance = off[0].double() ** 2 + off[1].double() ** 2
    chosen = distance.masked_fill(~peak, torch.inf).view(count, -1).argmin(dim=1)
    edges = []
    for centre, side, extent in ((chosen // width, height, box[0]), (chosen % width, width, box[1])):
        edges.append((centre - extent // 2).clamp(0, side - extent))
    return edges[0], edges[1]


def inside(size: tuple[int, int], box: tuple[int, int], top: Tensor, left: Tensor) -> Tensor:
    """[B, 1, H, W] bool: the pixels of each image's box."""
    rows = torch.arange(size[0], device=top.device) - top[:, None]
    columns = torch.arange(size[1], device=left.device) - left[:, None]
    rows, columns = (rows >= 0) & (rows < box[0]), (columns >= 0) & (columns < box[1])
    return (rows[:, :, None] & columns[:, None, :])[:, None]


@outside_autocast
def gradmix(images: Tensor, maps: Tensor, mates: Tensor, gamma: float) -> tuple[Tensor, float]:
    """Put each mate's whole image, resized, on the most salient spot.

    Args:
        images: [B, C, H, W].
        maps: [B, H, W] saliency.
        mates: [B] int64, the image that each is mixed with.
        gamma: the box's share of each side, in (0, 1].

    Returns:
        the mixed images [B, C, H, W], and the share of the area that comes from the mate.
    """
    count, channels, height, width = images.shape
    box = box_size(gamma, height, width)
    small = F.interpolate(images, size=box, mode="bilinear", antialias=True, align_corners=False)[mates]
    top, left = salient_boxes(maps, box)
    # each pixel's place in the small image; outside the box any will do
    rows = (torch.arange(height, device=images.device) - top[:, None]).clamp(0, box[0] - 1)
    columns = (torch.arange(width, device=images.device) - left[:, None]).clamp(0, box[1] - 1)
    places = (rows[:, :, None] * box[1] + columns[:, None, :]).view(count, 1, height * width)
    pasted = small.flatten(2).gather(2, places.expand(-1, channels, -1)).view(images.shape)
    mixed = torch.where(inside((height, width), box, top, left), pasted, images)
    return mixed, box[0] * box[1] / (height * width)


@outside_autocast
def cutmix(images: Tensor, mates: Tensor, gamma: float) -> tuple[Tensor, float]:
    """Replace a box at a random place by what the mate has there (Yun et al. 2019); see `gradmix`."""
    size = (images.shape[2], images.shape[3])
    box = box_size(gamma, *size)
    edges = [torch.randint(size[dim] - box[dim] + 1, (len(images),), device=images.device) for dim in (0, 1)]
    place = inside(size, box, *edges)
    return torch.where(place, images[mates], images), box[0] * box[1] / (size[0] * size[1])


@outside_autocast
def mixup(images: Tensor, mates: Tensor, gamma: float) -> tuple[Tensor, float]:
    """Blend every image with its mate, which has the share gamma^2 (Zhang et al. 2018); see `gradmix`."""
    share = gamma**2
    return torch.lerp(images, images[mates], share), share
