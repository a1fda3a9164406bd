"""The largest logit, on the scale of its class (Jung et al. 2021)."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from nas_osr.errors import UserError
from nas_osr.outputs import Outputs
from nas_osr.scoring.base import Scores, ScoringRule

logger = logging.getLogger(__name__)

FEWEST = 2  # images of a class that have a spread


class SML(ScoringRule):
    """Standardised maximum logit (Jung et al. 2021, eq. 3 and 4): (largest logit - mean) / deviation of its class.

    Mean and standard deviation are of the largest logits of all known training images that are taken for the class,
    right or wrong. Classes differ in how large the logits of their images are: under one threshold for all, an unknown
    image that looks a little like a class of large ones passes for known (a truck, where automobiles are).
    A class with fewer than two such images, or none that differ, has the mean and deviation of all classes.

    Attributes:
        means: [N] float64, by predicted class; None before `fit`.
        deviations: [N] float64, greater than 0.
    """

    name = "sml"
    paper = "SML (Jung et al. 2021)"
    needs = frozenset({"logits"})
    learned = ("means", "deviations")

    def fit(self, outputs: Outputs, targets: Tensor, objective: object | None = None) -> None:
        """Find means and deviations; the targets do not matter. A class that has none of its own is named in one line.

        Raises:
            UserError: there is no image, or a logit is not a number (the network has diverged).
        """
        assert outputs.logits is not None
        largest, labels = outputs.logits.double().max(dim=1)
        if len(largest) == 0:
            raise UserError(f"scoring rule '{self.name}': no known training image to fit to")
        if largest.isnan().any():
            raise self.diverged("logits of known training images")
        deviation, mean = torch.std_mean(largest, correction=0)
        self.means = mean.repeat(outputs.logits.shape[1])
        self.deviations = torch.where(deviation > 0, deviation, 1.0).repeat(len(self.means))
        without = []
        for label in range(len(self.means)):
            of_class = largest[labels == label]
            if len(of_class) >= FEWEST and (of_class > of_class[0]).any() | (of_class < of_class[0]).any():
                self.deviations[label], self.means[label] = torch.std_mean(of_class, correction=0)
            else:
                without.append(label)
        if without:
            logger.warning(
                "scoring rule '%s': fewer than %d training images that differ are taken for class %s: judged by all",
                self.name, FEWEST, ", ".join(map(str, without)),
            )  # fmt: skip

    def scores(self, outputs: Outputs) -> Scores:
        assert outputs.logits is not None
        logits = outputs.logits.double()
        largest, labels = logits.max(dim=1)
        means, deviations = self.learnt("means", largest), self.learnt("deviations", largest)
        return Scores((largest - means[labels]) / deviations[labels], logits)
