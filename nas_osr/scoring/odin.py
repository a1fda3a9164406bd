"""ODIN (Liang et al. 2018): softmax at a high temperature, of an image moved towards its predicted class."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from nas_osr.errors import UserError
from nas_osr.outputs import Outputs
from nas_osr.scoring.base import Scores
from nas_osr.scoring.logits import MSP


class ODIN(MSP):
    """The largest softmax probability at `temperature` (as `MSP` has it) of the changed image (eq. 1 and 2).

    The network is asked about x - epsilon sign(dL/dx), L the cross-entropy at that temperature of the class that it
    predicts for x: three times the cost of a look. Logits and labels are those of the changed image.

    Args:
        acceptance: the share of known validation images to accept.
        temperature: above 0; the paper's 1,000.
        epsilon: at least 0, of pixels in [0, 1]; the paper's .0014.
    """

    name = "odin"
    paper = "ODIN (Liang et al. 2018)"
    needs = frozenset({"logits"})
    needs_network = True
    no_graph = "it takes gradients with respect to the image"

    def __init__(self, acceptance: float = 0.95, temperature: float = 1000.0, epsilon: float = 0.0014) -> None:
        super().__init__(acceptance)
        self.temperature, self.epsilon = temperature, epsilon
        if not _is_number(temperature) or not 0 < temperature < float("inf"):
            raise UserError(f"scoring rule 'odin': temperature must be a number greater than 0, not {temperature!r}")
        if not _is_number(epsilon) or not 0 <= epsilon <= 1:
            raise UserError(f"scoring rule 'odin': epsilon must lie in 0 to 1, not {epsilon!r}")

    def observe(self, infer: Callable[..., Outputs], images: Tensor) -> Outputs:
        """The outputs for the changed images."""
        with torch.inference_mode(False), torch.enable_grad():
            seen = images.detach().clone().requires_grad_()
            logits = infer(seen).logits
            assert logits is not None
            loss = F.cross_entropy(logits.float() / self.temperature, logits.argmax(dim=1), reduction="sum")
            (gradient,) = torch.autograd.grad(loss, seen)
        return infer(images - self.epsilon * gradient.sign())

    def scores(self, outputs: Outputs) -> Scores:
        """The knownness at the temperature, and the logits."""
        assert outputs.logits is not None
        logits = outputs.logits.double()
        return Scores(self.knownness(logits / self.temperature), logits)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
