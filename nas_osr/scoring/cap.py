"""CAP, the two-stage test of NAS-OSR: class-conditional reconstruction, then probability under class Gaussians.

Stage one: the error of the best class-conditional reconstruction, min_j MSE(x, Dec(mu_j, z)) with mu_j the mean of u
over the training images of class j, rejects images that no class can reconstruct. Stage two rejects those whose u is
improbable under the Gaussian of every class. The paper prints eq. 5 for it; its code ranks by the density of a
full-covariance Gaussian, which does better than eq. 5 on every network that was tried, and is the default here.

A density counts every direction of u alike. Where u holds more of an image than its class, unknown images that are
simpler than the known ones have the larger density; `relative` takes off what is true of all classes, the density of
one Gaussian of all images (after Ren et al. 2021, whose relative Mahalanobis distance has one covariance for all).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from nas_osr.configuration import check_choice
from nas_osr.errors import UserError
from nas_osr.outputs import Outputs
from nas_osr.scoring.base import Scores, ScoringRule, bounded, members_by_class
from nas_osr.scoring.class_gaussians import log_density, log_minus_log_tail, log_volume, whitening

STAGE_TWO = ("gaussian", "diagonal", "relative", "eq5")
COMBINE = ("second", "stages")


class CAP(ScoringRule):
    """Reconstruction error, then class Gaussians on the class attribute u; the label is the classifier's.

    Stage one accepts errors up to the `acceptance` quantile of known validation images; stage two accepts its score
    down to their 1 - `acceptance` quantile. So both together accept between 2 * acceptance - 1 and acceptance of them.

    Args:
        acceptance: of each stage, the share of known validation images to accept.
        stage_two: `gaussian`, the density of a class's full-covariance Gaussian; `diagonal`, that of one without
            covariances; `relative`, that of `gaussian` over the density of one Gaussian of all classes; `eq5`, the
            paper's formula.
        combine: what ranks images. `second`: stage two alone, while both thresholds decide; `stages`, the paper's:
            images that fail stage one come last, by their error.

    Attributes:
        means, whiten: [N, D] and [N, D, D] float64, the mean of u per class and the W that turns u - mean to unit
            covariance, over the correctly classified training images (over all of its images where none is correct).
            With `relative` one more: of all these images together.
        volumes: [N] or [N + 1] float64, log |det W|.
        usable: [N] bool, whether a class had any training image; one without cannot accept an image.
        error_threshold: the largest error that stage one accepts; None before `set_threshold`.
    """

    name = "cap"
    paper = "NAS-OSR"
    needs = frozenset({"logits", "latent_mean", "class_reconstruction_error"})
    learned = ("error_threshold", "means", "whiten", "volumes", "usable")

    error_threshold: float | None

    def __init__(self, acceptance: float = 0.95, stage_two: str = "gaussian", combine: str = "second") -> None:
        super().__init__(acceptance)
        self.stage_two, self.combine = stage_two, combine
        check_choice(self, "stage_two", STAGE_TWO, where=f"scoring rule '{self.name}': ")
        check_choice(self, "combine", COMBINE, where=f"scoring rule '{self.name}': ")

    def fit(self, outputs: Outputs, targets: Tensor, objective: object | None = None) -> None:
        """Estimate the class Gaussians, and tell the objective the class means for stage one. targets: [B] in 0..N-1.

        Outputs that are computed afterwards have the errors under these means.

        Raises:
            UserError: `relative` with a single class, which fits every image as all classes together do.
        """
        assert outputs.logits is not None
        latents = bounded(outputs.latent_mean)
        classes, dimensions = outputs.logits.shape[1], latents.shape[1]
        if self.stage_two == "relative" and classes < 2:
            raise UserError(f"scoring rule '{self.name}': stage_two relative needs at least two known classes")
        self.means = latents.new_zeros(classes, dimensions)
        self.whiten = torch.eye(dimensions).to(latents).repeat(classes, 1, 1)
        self.usable = torch.zeros(classes, dtype=torch.bool, device=latents.device)
        used = []
        for label, members in members_by_class(outputs.logits, targets):
            own = latents[members]
            used.append(own)
            self.means[label] = own.mean(dim=0)
            self.whiten[label] = whitening(own - self.means[label], full=self.stage_two in ("gaussian", "relative"))
            self.usable[label] = True
        means = self.means
        if self.stage_two == "relative":
            together = torch.cat(used)
            self.means = torch.cat([means, together.mean(dim=0, keepdim=True)])
            self.whiten = torch.cat([self.whiten, whitening(together - self.means[-1], full=True)[None]])
        self.volumes = torch.stack([log_volume(whiten) for whiten in self.whiten])
        tell = getattr(objective, "take_class_means", None)
        if tell is not None:
            tell(means, self.usable)

    def set_threshold(self, outputs: Outputs, targets: Tensor) -> None:
        """Set both thresholds, each on all of these known validation images.

        Raises:
            UserError: there is no image, or an error or a knownness is not a number (the network has diverged).
        """
        self.error_threshold = self.quantile(least_error(outputs), self.acceptance)
        self.threshold = self.quantile(self.second_stage(outputs), 1.0 - self.acceptance)

    def threshold_source(self) -> dict[str, Any]:
        """Both thresholds are quantiles; `error_threshold` is stage one's."""
        return {"picker": "quantile", "acceptance": self.acceptance, "error_threshold": self.error_threshold}

    def scores(self, outputs: Outputs) -> Scores:
        """Knownness by stage two, at least 0, for images that pass stage one; minus their excess error otherwise."""
        if self.error_threshold is None:
            raise RuntimeError("set_threshold comes before the scores")
        assert outputs.logits is not None
        excess = least_error(outputs) - self.error_threshold
        second = self.second_stage(outputs)
        knownness = torch.where(excess > 0, -excess, second)
        return Scores(knownness, outputs.logits.double(), second if self.combine == "second" else None)

    def second_stage(self, outputs: Outputs) -> Tensor:
        """[B] float64 knownness by stage two: 1 + t for the largest class score t >= 0, 1 / (1 - t) for t < 0.

        That takes [-inf, inf) to [0, inf), keeps its order and has full resolution in the far tail.
        """
        score = self.class_fits(outputs).amax(dim=1)
        return torch.where(score >= 0, 1.0 + score, 1.0 / (1.0 - score.clamp_max(0.0)))

    def class_fits(self, outputs: Outputs) -> Tensor:
        """[B, N] float64, how well u fits each class by `stage_two`; -inf for a class without training images."""
        latents = bounded(outputs.latent_mean)
        gaussians = [self.learnt(name, latents) for name in ("means", "whiten", "volumes")]
        fits = []
        for mean, whiten, volume in zip(
            *gaussians, strict=True
        ):  # class by class: [B, N, D] would be the largest thing
            standard = (latents - mean) @ whiten
            fits.append(log_minus_log_tail(standard) if self.stage_two == "eq5" else log_density(standard, volume))
        if self.stage_two == "relative":
            background = fits.pop()
            fits = [fit - background for fit in fits]
        return torch.stack(fits, dim=1).masked_fill(~self.learnt("usable", latents), -math.inf)


def least_error(outputs: Outputs) -> Tensor:
    """[B] float64, the error of the best class-conditional reconstruction."""
    assert outputs.class_reconstruction_error is not None
    return outputs.class_reconstruction_error.double().amin(dim=1)
