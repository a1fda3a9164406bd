"""A scoring rule."""

from nas_osr.outputs import Outputs
from nas_osr.scoring.base import Scores, ScoringRule


class Margin(ScoringRule):
    """How far the largest logit is above the second largest."""

    name = "margin"
    needs = frozenset({"logits"})

    def scores(self, outputs: Outputs) -> Scores:
        logits = outputs.logits.double()
        best, second = logits.topk(2, dim=1).values.unbind(dim=1)
        return Scores(knownness=best - second, class_scores=logits)
