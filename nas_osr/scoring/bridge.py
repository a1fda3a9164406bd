"""Detectors of pytorch-ood as scoring rules: `--rule pytorch_ood.NAME`.

One that reads logits, or the features under the last layer, is given the outputs that all rules share, and its outlier
score, negated, is the knownness. Pooled features stand for feature maps of one position. What such a detector learns is
of any kind: the model keeps what it was fitted to, and it is fitted anew when the model is opened.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nas_osr.errors import UserError, show
from nas_osr.outputs import Outputs
from nas_osr.scoring import BRIDGE
from nas_osr.scoring.base import Scores
from nas_osr.scoring.linear_head import HeadRule

#: Why some detectors cannot be rules that would be by what they read.
REFUSED = {
    "OpenMax": "there an image's score depends on the others in its batch: use openmax",
    "RankFeat": "it needs whole feature maps",
    "MCM": "it needs a text encoder",
    "WeightedEBO": "it needs weights that are trained along",
}
NETWORK = ("model", "encoder", "backbone")  # a constructor's parameters that stay empty: outputs are given
HEAD = ("head", "w", "b")


class DetectorRule(HeadRule):
    """A detector of logits or features; class scores are the logits.

    Args:
        acceptance: the share of known validation images to accept.
        settings: of the detector's constructor.

    Attributes:
        kind: the detector's class.
        reads: what its methods take: "logits", "features" or "feature_maps".
        seen, targets: [M, N or D] float32 and [M], what it was fitted to, where it is fitted.
    """

    kind: ClassVar[type[Any]]
    reads: ClassVar[str]
    no_graph = "pytorch-ood computes its scores"

    def __init__(self, acceptance: float = 0.95, **settings: Any) -> None:
        super().__init__(acceptance)
        self.settings = settings
        self.detector: Any = None
        self.make(torch.eye(2), torch.zeros(2))  # so that a wrong setting is found at once

    @property
    def learns(self) -> bool:
        """Whether it is fitted, or needs the last layer."""
        return bool(self.learned)

    def make(self, weight: Tensor, bias: Tensor) -> Any:
        """A new detector over a last layer. Raises UserError: a setting is wrong, or a package is missing."""
        weight, bias = weight.float().cpu(), bias.float().cpu()
        head = nn.Linear(weight.shape[1], weight.shape[0])
        head.load_state_dict({"weight": weight, "bias": bias})
        head.requires_grad_(False)
        parts = {**dict.fromkeys(NETWORK), "head": head, "w": weight, "b": bias}
        if self.reads == "feature_maps":
            parts["head"] = lambda maps: head(maps.flatten(1))
        wanted = inspect.signature(self.kind).parameters
        try:
            return self.kind(**{name: part for name, part in parts.items() if name in wanted}, **self.settings)
        except (TypeError, ValueError, AssertionError, ImportError) as error:
            raise UserError(f"scoring rule '{self.name}': its settings are refused: {error!r}") from error

    def fit(self, outputs: Outputs, targets: Tensor, objective: object | None = None) -> None:
        """Keep what the detector is fitted to. Raises UserError: see `HeadRule.fit`, or it cannot be fitted to it."""
        if self.needs_head:
            super().fit(outputs, targets, objective)
        if "seen" in self.learned:
            self.seen, self.targets = self.values(outputs), targets.cpu()
        self.detector = self.fitted()

    def fitted(self) -> Any:
        """A detector that has learned from what is kept. Raises UserError: pytorch-ood cannot be fitted to it."""
        if any(getattr(self, name) is None for name in self.learned):
            raise RuntimeError("fit comes before the scores")
        detector = self.make(self.weight, self.bias) if self.needs_head else self.make(torch.eye(2), torch.zeros(2))
        if "seen" in self.learned:
            try:
                with torch.inference_mode(False):
                    getattr(detector, f"fit_{self.reads}")(self.given(self.seen.clone()), self.targets.clone())
            except (ValueError, RuntimeError) as error:
                raise UserError(f"scoring rule '{self.name}': it cannot be fitted: {error}") from error
        return detector

    def values(self, outputs: Outputs) -> Tensor:
        """[B, N or D] float32 on the CPU, of logits or features."""
        found = outputs.logits if self.reads == "logits" else outputs.embedding
        assert found is not None
        return found.float().cpu()

    def given(self, values: Tensor) -> Tensor:
        """The same as the detector's methods take it."""
        return values[:, :, None, None] if self.reads == "feature_maps" else values

    def knownness(self, features: Tensor, logits: Tensor) -> Tensor:
        raise NotImplementedError

    def scores(self, outputs: Outputs) -> Scores:
        """Minus the outlier score, and the logits."""
        assert outputs.logits is not None
        self.detector = self.detector or self.fitted()
        with torch.inference_mode(False), torch.no_grad():
            outliers = getattr(self.detector, f"predict_{self.reads}")(self.given(self.values(outputs).clone()))
        return Scores(-outliers.to(outputs.logits.device, torch.float64), outputs.logits.double())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.detector = None  # fitted anew when it is asked


def import_detectors() -> ModuleType:
    """The module `pytorch_ood.detector`. Raises UserError where the extra `ood` is missing."""
    try:
        import pytorch_ood.detector as detectors
    except ModuleNotFoundError as error:
        raise UserError(f"rules {BRIDGE}NAME need {error.name}: pip install nas-osr[ood]") from error
    return detectors  # type: ignore[no-any-return]


def supported() -> dict[str, str]:
    """The detectors that can be rules, by name, with what they read."""
    from pytorch_ood import api

    reads = {api.LogitsDetector: "logits", api.FeaturesDetector: "features", api.FeatureMapsDetector: "feature_maps"}
    kinds = {name: getattr(import_detectors(), name) for name in import_detectors().__all__ if name not in REFUSED}
    return {
        name: what
        for name, kind in kinds.items()
        for base, what in reads.items()
        if isinstance(kind, type) and issubclass(kind, base)
    }


@cache
def detector_rule(name: str) -> type[DetectorRule]:
    """The detector of this name as a rule. Raises UserError: pytorch-ood has no such detector, or it cannot be one."""
    detectors = import_detectors()
    if name in REFUSED:
        raise UserError(f"scoring rule {BRIDGE}{name} is not offered: {REFUSED[name]}")
    reads = supported()
    if name not in reads:
        raise UserError(
            f"unknown scoring rule {show(BRIDGE + name)}: of pytorch-ood's detectors, these read logits or features: "
            f"{', '.join(sorted(reads))}"
        )
    kind, on_features = getattr(detectors, name), reads[name] != "logits"
    needs_head, paper = not inspect.signature(kind).parameters.keys().isdisjoint(HEAD), kind.info.paper
    attributes = {
        "__doc__": kind.__doc__,
        "kind": kind,
        "reads": reads[name],
        "name": BRIDGE + name,
        "paper": f"{paper.title} ({paper.year})" if paper else "",
        "needs": frozenset({"logits", "embedding"} if on_features else {"logits"}),
        "needs_head": needs_head,
        "learned": (*(("weight", "bias") if needs_head else ()), *(("seen", "targets") if kind.requires_fit else ())),
    }
    made = type(name, (DetectorRule,), attributes)
    made.__signature__ = signature_of(kind)  # type: ignore[attr-defined]
    return made


def signature_of(kind: type[Any]) -> inspect.Signature:
    """The settings of a rule: its acceptance, and those parameters of the constructor that are no part of a network."""
    own = inspect.signature(DetectorRule.__init__).parameters["acceptance"]
    wanted = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in inspect.signature(kind).parameters.items()
        if name not in (*NETWORK, *HEAD) and parameter.kind == inspect.Parameter.POSITIONAL_OR_KEYWORD
    ]
    return inspect.Signature([own, *wanted])
