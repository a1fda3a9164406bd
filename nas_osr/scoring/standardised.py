"""The largest logit, on the scale of its class (Jung et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

from nas_osr.outputs import Outputs
from nas_osr.scoring.base import Scores, ScoringRule


class SML(ScoringRule):
    """Standardised maximum logit (Jung et al. 2021, eq. 3 and 4): (largest logit - mean) / deviation of its class.

    Mean and standard deviation are of the largest logits of known images that are taken for the class, right or wrong.
    Classes differ in how large the logits of their images are: under one threshold for all, an unknown image that looks
    a little like a class of large ones passes for known (a truck, where automobiles are).

    Unlike the paper's, the images are those that set the threshold, which the network has not learned: where it has
    learned few by heart, it is surer of these than of new ones, and more so in some classes than in others.

    Attributes:
        means: [N] float64, by predicted class; None before `set_threshold`.
        deviations: [N] float64, greater than 0.
        shared: [N] bool, whether a class has the mean and deviation of all images, since fewer than `fewest` are taken
            for it, or none that differ.
    """

    name = "sml"
    paper = "SML (Jung et al. 2021)"
    needs = frozenset({"logits"})
    learned = ("means", "deviations", "shared")
    fewest = 5

    def set_threshold(self, outputs: Outputs, targets: Tensor) -> None:
        """Find means and deviations, then the threshold.

        Raises:
            UserError: there is no image, or a logit is not a number (the network has diverged).
        """
        assert outputs.logits is not None
        largest, labels = outputs.logits.double().max(dim=1)
        self.quantile(largest, 0.5)  # raises
        deviation, mean = torch.std_mean(largest, correction=0)
        self.means = mean.repeat(outputs.logits.shape[1])
        self.deviations = torch.where(deviation > 0, deviation, 1.0).repeat(len(self.means))
        self.shared = torch.ones_like(self.means, dtype=torch.bool)
        for label in range(len(self.means)):
            of_class = largest[labels == label]
            if len(of_class) >= self.fewest and (of_class != of_class[0]).any():
                self.deviations[label], self.means[label] = torch.std_mean(of_class, correction=0)
                self.shared[label] = False
        super().set_threshold(outputs, targets)

    def threshold_source(self) -> dict[str, object]:
        of_all = {} if self.shared is None else {"classes_by_all": self.shared.nonzero().flatten().tolist()}
        return {"picker": "quantile", "acceptance": self.acceptance, **of_all}

    def scores(self, outputs: Outputs) -> Scores:
        assert outputs.logits is not None
        logits = outputs.logits.double()
        largest, labels = logits.max(dim=1)
        means, deviations = self.learnt("means", largest), self.learnt("deviations", largest)
        return Scores((largest - means[labels]) / deviations[labels], logits)
