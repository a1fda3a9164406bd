"""The largest logit, on the scale of its class (Jung et al. 2021)."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from nas_osr.outputs import Outputs
from nas_osr.scoring.base import Scores, ScoringRule

logger = logging.getLogger(__name__)

FEWEST = 5  # images of a class whose mean and deviation count


class SML(ScoringRule):
    """Standardised maximum logit (Jung et al. 2021, eq. 3 and 4): (largest logit - mean) / deviation of its class.

    Mean and standard deviation are of the largest logits of known images that are taken for the class, right or wrong.
    Classes differ in how large the logits of their images are: under one threshold for all, an unknown image that looks
    a little like a class of large ones passes for known (a truck, where automobiles are).

    Unlike the paper's, the images are those that set the threshold, which the network has not learned: where it has
    learned few by heart, it is surer of these than of new ones, and more so in some classes than in others.

    Attributes:
        means: [N] float64, by predicted class; those of all images, as are the deviations, for a class that fewer than
            five are taken for, or none that differ. None before `set_threshold`.
        deviations: [N] float64, greater than 0.
    """

    name = "sml"
    paper = "SML (Jung et al. 2021)"
    needs = frozenset({"logits"})
    learned = ("means", "deviations")

    def set_threshold(self, outputs: Outputs, targets: Tensor) -> None:
        """Find means and deviations, then the threshold. Classes that have none of their own are named in one line.

        Raises:
            UserError: there is no image, or a logit is not a number (the network has diverged).
        """
        assert outputs.logits is not None
        largest, labels = outputs.logits.double().max(dim=1)
        self.quantile(largest, 0.5)  # raises
        deviation, mean = torch.std_mean(largest, correction=0)
        self.means = mean.repeat(outputs.logits.shape[1])
        self.deviations = torch.where(deviation > 0, deviation, 1.0).repeat(len(self.means))
        without = []
        for label in range(len(self.means)):
            of_class = largest[labels == label]
            if len(of_class) >= FEWEST and (of_class != of_class[0]).any():
                self.deviations[label], self.means[label] = torch.std_mean(of_class, correction=0)
            else:
                without.append(str(label))
        if without:
            logger.warning(
                "scoring rule '%s': fewer than %d known validation images that differ are taken for class %s: "
                "there, the mean and deviation of all", self.name, FEWEST, ", ".join(without),
            )  # fmt: skip
        super().set_threshold(outputs, targets)

    def threshold_source(self) -> dict[str, object]:
        return {"picker": "quantile", "acceptance": self.acceptance}

    def scores(self, outputs: Outputs) -> Scores:
        assert outputs.logits is not None
        logits = outputs.logits.double()
        largest, labels = logits.max(dim=1)
        means, deviations = self.learnt("means", largest), self.learnt("deviations", largest)
        return Scores((largest - means[labels]) / deviations[labels], logits)
