"""How a contrastive objective mixes its views: the settings, which maps say what is salient, and the mixing itself."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from nas_osr.configuration import check_choice
from nas_osr.data.augmentation import is_range
from nas_osr.errors import UserError
from nas_osr.objectives.parts.gradmix import cutmix, draw_gamma, gradmix, mixup
from nas_osr.objectives.parts.saliency_maps import WEIGHTS, choose_scales, distinct_maps, saliency_maps
from nas_osr.objectives.parts.side_tasks import ObjectiveConfig
from nas_osr.option_docs import NOT_NEGATIVE, Range
from nas_osr.outputs import Features, FeatureShapes

MIXES = ("gradmix", "cutmix", "mixup", "none")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MixConfig(ObjectiveConfig):
    """What is mixed, and where."""

    mix: str = "gradmix"
    "gradmix, cutmix, mixup or none."
    mix_alpha: Annotated[float, NOT_NEGATIVE] = 0.0
    """of cutmix and mixup: the mate's share is the smaller of l and 1 - l, l from Beta(alpha, alpha); 0: it is gamma^2,
    as in gradmix."""
    saliency: str = "layercam"
    "layercam or gradcam (plain GradMix), for mix gradmix."
    saliency_layers: Annotated[tuple[int, ...], Range(-1, 2)] = ()
    """the scales of the feature maps whose saliencies are summed: 2 is the last, 1 and 0 finer, -1 the stem's; none:
    the last that has 4x4 positions."""
    gamma: tuple[float, float] = (0.1, 0.5)
    "range of the mixed box's share of a side, in (0, 1]."

    def __post_init__(self) -> None:
        super().__post_init__()
        where = f"{type(self).__name__.removesuffix('Config').lower()}: "
        check_choice(self, "mix", MIXES, where=where)
        check_choice(self, "saliency", WEIGHTS, where=where)
        if self.mix_alpha and self.mix not in ("cutmix", "mixup"):
            raise UserError(f"{where}mix_alpha is for mix cutmix and mixup, not for {self.mix}: leave it out")
        if not is_range(self.gamma):
            raise UserError(f"{where}gamma must be two rising numbers in (0, 1], got {self.gamma!r}")

    @property
    def idle(self) -> dict[str, str]:
        found = super().idle
        if self.mix != "gradmix":
            found |= dict.fromkeys(("saliency", "saliency_layers"), f"with mix {self.mix}")
        if self.mix == "none":
            found["gamma"] = "with mix none"
        elif self.mix_alpha:
            found["gamma"] = "with mix_alpha"
        return found


class Mixing:
    """Mixes views as a `MixConfig` says, by the maps of one network.

    Args:
        config: the settings.
        shapes: of the network's maps.
        where: who asks, for messages.

    Attributes:
        salient: whether it needs a saliency, and so gradients.
    """

    def __init__(self, config: MixConfig, shapes: FeatureShapes, where: str) -> None:
        self.config, self.shapes, self.where = config, shapes, where
        self.salient = config.mix == "gradmix"
        self.told = False

    def check(self) -> None:
        """UserError when the network has no map to take the saliency from."""
        if self.salient:
            self.scales()

    def scales(self) -> tuple[int, ...]:
        """Whose saliencies are summed; see `choose_scales`."""
        return choose_scales(self.shapes, self.config.saliency_layers, f"{self.where}: saliency_layers")

    def tracked(self, encoder: nn.Module) -> bool:
        """Whether the maps of the saliency are sure to have gradients, also where the encoder's weights are frozen.

        An architecture step asks only for gradients of alphas and betas, which come before every map but those of the
        stem. Gradients of the views, which these maps then hang on, cost a pass back to the stem.
        """
        return min(self.scales()) > 0 and any(parameter.requires_grad for parameter in encoder.parameters())

    def draw_gamma(self) -> float:
        """gamma of a batch, whose square is the mate's share."""
        alpha = self.config.mix_alpha
        if not alpha:
            return draw_gamma(*self.config.gamma)
        share = float(torch.distributions.Beta(alpha, alpha).sample())
        return math.sqrt(min(share, 1 - share))

    def mix(self, views: Tensor, mates: Tensor, features: Features, loss: Tensor) -> tuple[Tensor, float]:
        """Mixed views, and the share that comes from the mate.

        Args:
            views: [M, C, H, W], the first or all of those that `loss` is of.
            mates: [M] int64.
            features: the encoder's, of at least these views, which come first.
            loss: the contrastive loss, for the saliency.
        """
        gamma = self.draw_gamma()
        if self.config.mix == "cutmix":
            mixed, share = cutmix(views, mates, gamma)
        elif self.config.mix == "mixup":
            mixed, share = mixup(views, mates, gamma)
        else:
            available = {**features.intermediate, **features.branches}
            scales, size = self.scales(), (views.shape[2], views.shape[3])
            maps = distinct_maps([available[scale] for scale in scales])
            if len(maps) < len(scales) and not self.told:
                logger.warning("%s: of saliency_layers %s some are one map, which counts once", self.where, scales)
                self.told = True
            found = saliency_maps(loss, maps, size, self.config.saliency)[: len(views)]
            mixed, share = gradmix(views, found, mates, gamma)
        return mixed.contiguous(memory_format=torch.channels_last), share
