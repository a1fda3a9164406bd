"""Saliency maps of a batch loss: where in the images it is decided (GradMix; LayerCAM; Grad-CAM).

Unlike the usual class activation maps, the gradient is that of the whole batch's loss, as GradMix has it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_osr.errors import UserError
from nas_osr.outputs import FeatureShapes

WEIGHTS = ("layercam", "gradcam")
LEAST_SIDE = 4  # positions: on a coarser map every peak is in a corner, or in the middle of the image


def choose_scales(shapes: FeatureShapes, scales: Sequence[int], where: str) -> tuple[int, ...]:
    """The scales of the maps that a saliency is taken from: those named, or else the last with 4x4 positions.

    Raises UserError, which begins with `where`, when the network has no such map, or one of fewer positions.
    """
    available = {**shapes.intermediate, **shapes.branches}
    fine = [scale for scale, (_, *sides) in sorted(available.items()) if min(sides) >= LEAST_SIDE]
    there = ", ".join(map(str, fine)) or "none"
    for scale in scales:
        if scale not in available:
            raise UserError(f"{where}: the network has no map at scale {scale}; choose of {there}")
        if scale not in fine:
            _, height, width = available[scale]
            raise UserError(
                f"{where}: the map at scale {scale} has {height}x{width} positions, and a saliency needs "
                f"{LEAST_SIDE}x{LEAST_SIDE}; choose of {there}"
            )
    if not fine:
        raise UserError(f"{where}: the network has no map of {LEAST_SIDE}x{LEAST_SIDE} positions for a saliency")
    return tuple(scales) or (fine[-1],)


def distinct_maps(maps: Sequence[Tensor]) -> list[Tensor]:
    """The maps in their order, each once: two layers of a network may be one tensor."""
    return list({id(map_): map_ for map_ in maps}.values())


def saliency_maps(loss: Tensor, maps: Sequence[Tensor], size: tuple[int, int], weights: str = "layercam") -> Tensor:
    """Where the loss is sensitive to the feature maps A.

    layercam: M = ReLU(sum_k ReLU(dl/dA^k) * A^k), weighted at every location (GradMix).
    gradcam: M = ReLU(sum_k w_k A^k), w_k the mean of dl/dA^k over all locations (plain GradMix).

    No `.grad` is written, and the graph stays usable for the step that follows.

    Args:
        loss: l, a scalar that depends on the maps.
        maps: feature maps [B, C, h, w] of one or several layers, all distinct; their saliencies are resized (bilinear)
            and summed.
        size: (H, W) of the result.
        weights: "layercam" or "gradcam".

    Returns:
        [B, H, W] float32, not negative, detached.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"weights must be one of {', '.join(WEIGHTS)}, got {weights!r}")
    gradients = torch.autograd.grad(loss, list(maps), retain_graph=True)
    total = torch.zeros(len(maps[0]), *size, device=maps[0].device)
    for map_, gradient in zip(maps, gradients, strict=True):
        gradient = gradient.float()
        weight = gradient.relu() if weights == "layercam" else gradient.mean(dim=(2, 3), keepdim=True)
        saliency = (weight * map_.detach().float()).sum(dim=1, keepdim=True).relu()
        total += F.interpolate(saliency, size=size, mode="bilinear", align_corners=False)[:, 0]
    return total


def activated_area(maps: Tensor, thresholds: Tensor) -> Tensor:
    """S_M(t), the mean share of a map above each threshold: [T] in [0, 1] (GradMix takes t from 1e-5 to 1e-3).

    Maps [B, H, W] are those of `saliency_maps`, not rescaled.
    """
    return torch.stack([(maps > threshold).float().mean() for threshold in thresholds.to(maps.device)])
