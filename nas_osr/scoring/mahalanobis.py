"""Mahalanobis distances to class means under one covariance of all classes (Lee et al. 2018), and relative ones.

A distance counts every direction of the features alike, also those that tell no class apart: there, unknown images that
are simpler than the known ones come out close. The relative distance (Ren et al. 2021) takes off the distance under one
Gaussian of all training images, which is large in exactly these directions.

Features have no unit of their own, so that the least variance that a direction may have is a share of theirs.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from nas_osr.errors import UserError
from nas_osr.outputs import Outputs
from nas_osr.scoring.base import Scores, ScoringRule, bounded, count_classes
from nas_osr.scoring.class_gaussians import whitening

#: Least variance in any direction, as a share of the features' mean variance: a thousandth of their deviation.
LEAST_SHARE = 1e-6


class Mahalanobis(ScoringRule):
    """Minus the squared distance to the nearest class mean, at most 0; the label is that class (Lee et al. 2018).

    Their eq. 2, of the embedding alone: the paper's sum over layers and its change of the image are left out.

    Attributes:
        means: [N, D] float64, the mean embedding of a class's training images.
        whiten: [D, D] float64 W that turns embedding - mean to unit covariance over all training images.
        usable: [N] bool, whether a class had any training image; one without is never the label.
    """

    name = "mahalanobis"
    paper = "Mahalanobis (Lee et al. 2018)"
    needs = frozenset({"embedding"})
    learned: ClassVar[tuple[str, ...]] = ("means", "whiten", "usable")

    def fit(self, outputs: Outputs, targets: Tensor, objective: object | None = None) -> None:
        """Estimate means and covariance. targets: [B] int64 in 0..N-1.

        Raises:
            UserError: there is no image, or something is not a number (the network has diverged).
        """
        features = bounded(outputs.embedding)
        if len(features) == 0:
            raise UserError(f"scoring rule '{self.name}': no known training image to fit to")
        if features.isnan().any():
            raise self.diverged("embeddings of known training images")
        targets = targets.to(features.device)
        classes = count_classes(Outputs(embedding=outputs.embedding), targets, objective)
        self.means = features.new_zeros(classes, features.shape[1])
        self.usable = torch.bincount(targets, minlength=classes) > 0
        for label in targets.unique().tolist():
            self.means[label] = features[targets == label].mean(dim=0)
        self.whiten = whitening(features - self.means[targets], full=True, least=least_variance(features))

    def scores(self, outputs: Outputs) -> Scores:
        """The largest class score, and minus the squared distance to each class mean."""
        features = bounded(outputs.embedding)
        whiten = self.learnt("whiten", features)
        standard, means = features @ whiten, self.learnt("means", features) @ whiten
        # class by class: [B, N, D] would be the largest thing
        fits = torch.stack([-(standard - mean).square().sum(dim=1) for mean in means], dim=1)
        fits = fits + self.background(features)[:, None]
        fits = fits.masked_fill(~self.learnt("usable", features), -math.inf)
        return Scores(fits.amax(dim=1), fits)

    def background(self, features: Tensor) -> Tensor:
        """[B] what is added for features [B, D] whatever the class; here: 0."""
        return torch.zeros_like(features[:, 0])


class RelativeMahalanobis(Mahalanobis):
    """The squared distance under one Gaussian of all images, minus that to the nearest class mean (Ren et al. 2021).

    Attributes:
        centre, whiten_all: [D] and [D, D] float64, mean and whitening of all training images together.
    """

    name = "relative_mahalanobis"
    paper = "relative Mahalanobis (Ren et al. 2021)"
    needs = frozenset({"embedding"})
    learned = ("means", "whiten", "usable", "centre", "whiten_all")

    def fit(self, outputs: Outputs, targets: Tensor, objective: object | None = None) -> None:
        """Estimate the Gaussian of all images, too. Raises UserError: see `Mahalanobis.fit`."""
        super().fit(outputs, targets, objective)
        features = bounded(outputs.embedding)
        self.centre = features.mean(dim=0)
        # the same least variance, so that both distances count a direction alike in which nothing varies
        self.whiten_all = whitening(features - self.centre, full=True, least=least_variance(features))

    def background(self, features: Tensor) -> Tensor:
        """[B] the squared distance to the mean of all images, under their covariance."""
        centred = features - self.learnt("centre", features)
        return (centred @ self.learnt("whiten_all", features)).square().sum(dim=1)


def least_variance(features: Tensor) -> float:
    """What smaller variances of features [B, D] float64 count as, in any direction; 1 where none of them varies."""
    spread = float((features - features.mean(dim=0)).square().mean())
    return LEAST_SHARE * spread if spread > 0 else 1.0
