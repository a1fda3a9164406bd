"""`rotpred`: whether a network knows the class of an image, and how far each of its turns has been turned."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from nas_osr.errors import UserError
from nas_osr.outputs import Observed, Outputs
from nas_osr.scoring.base import Scores, ScoringRule, bounded

TURNS = 4  # by 0, 90, 180 and 270 degrees
OF_CLASSES = ("divergence", "maximum")


class RotationConfidence(ScoringRule):
    """How sure the network is of the class, minus its mean error at telling the four turns of the image apart.

    Hendrycks et al. 2019, section 4.2 ("multi-class anomaly detection"): KL(U || p) - 1/4 sum_r CE(r, q_r), p the class
    probabilities, U the uniform ones, q_r what the rotation head says of the image turned by r. For networks that have
    learned with the side task `rotpred`; four looks at an image. Class scores are the logits.

    Args:
        acceptance: the share of known validation images to accept.
        of_classes: the first term: `divergence`, the paper's, or `maximum`, the largest class probability.
    """

    name = "rotpred"
    paper = "RotPred (Hendrycks et al. 2019)"
    needs = frozenset({"logits"})
    needs_network = True
    needs_side = "rotpred"
    observes = frozenset({"turns"})
    no_graph = "it looks at an image four times"

    def __init__(self, acceptance: float = 0.95, of_classes: str = "divergence") -> None:
        super().__init__(acceptance)
        if of_classes not in OF_CLASSES:
            raise UserError(f"scoring rule 'rotpred': of_classes must be {' or '.join(OF_CLASSES)}, not {of_classes!r}")
        self.of_classes = of_classes

    def observe(self, infer: Callable[..., Outputs], images: Tensor) -> Outputs:
        """The outputs for the images, `turns` being the log probability of each of their turns, [B, 4]."""
        views = [infer(torch.rot90(images, turn, (2, 3)), whole=True) for turn in range(TURNS)]
        right = []
        for turn, view in enumerate(views):
            assert isinstance(view, Observed) and view.turns is not None
            right.append(F.log_softmax(view.turns.float(), dim=1)[:, turn])
        return Observed(**{**vars(views[0]), "layers": None, "turns": torch.stack(right, dim=1)})

    def scores(self, outputs: Outputs) -> Scores:
        """The sum of both, and the logits."""
        if not isinstance(outputs, Observed) or outputs.turns is None:
            raise RuntimeError("observe comes before the scores")
        logits = bounded(outputs.logits)
        known = F.log_softmax(logits, dim=1)
        if self.of_classes == "maximum":
            sure = known.amax(dim=1).exp()
        else:
            sure = -known.mean(dim=1) - torch.log(torch.tensor(float(logits.shape[1]))).item()
        return Scores(sure + outputs.turns.double().mean(dim=1), logits)
