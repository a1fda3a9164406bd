"""Global average pooling of an encoder's maps: the features under every head that does not need the image's layout."""

from __future__ import annotations

import torch
from torch import Tensor

from nas_osr.outputs import Features, FeatureShapes


def pooled_width(shapes: FeatureShapes) -> int:
    """D, the number of features that `pool` returns for maps of these shapes."""
    return sum(shape[0] for shape in shapes.branches.values())


def pool(features: Features) -> Tensor:
    """The mean of every channel of the 1/16 map, then of the finer branches where enabled: [B, D] float32.

    The order is by scale, coarsest first, whatever the order in `features`. What the encoder has pooled itself is taken
    as it is.
    """
    if features.pooled is not None:
        return features.pooled
    scales = sorted(features.branches, reverse=True)
    return torch.cat([features.branches[scale].float().mean(dim=(2, 3)) for scale in scales], dim=1)
