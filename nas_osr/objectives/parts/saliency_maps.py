"""Saliency maps of a batch loss: where in the images it is decided (GradMix; LayerCAM; Grad-CAM).

Unlike the usual class activation maps, the gradient is that of the whole batch's loss, as GradMix has it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

WEIGHTS = ("layercam", "gradcam")


def saliency_maps(loss: Tensor, maps: Sequence[Tensor], size: tuple[int, int], weights: str = "layercam") -> Tensor:
    """Where the loss is sensitive to the feature maps A.

    layercam: M = ReLU(sum_k ReLU(dl/dA^k) * A^k), weighted at every location (GradMix).
    gradcam: M = ReLU(sum_k w_k A^k), w_k the mean of dl/dA^k over all locations (plain GradMix).

    No `.grad` is written, and the graph stays usable for the step that follows.

    Args:
        loss: l, a scalar that depends on the maps.
        maps: feature maps [B, C, h, w] of one or several layers; their saliencies are resized (bilinear) and summed.
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
