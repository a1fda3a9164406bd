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

from nas_osr.errors import UserError, show, suggest
from nas_osr.outputs import Outputs
from nas_osr.scoring import BRIDGE
from nas_osr.scoring.base import Scores
from nas_osr.scoring.detectors import DETECTORS, REFUSED
from nas_osr.scoring.linear_head import HeadRule
from nas_osr.scoring.neighbours import Neighbours

NETWORK = ("model", "encoder", "backbone")  # a constructor's parameters that stay empty: outputs are given
HEAD = ("head", "w", "b")
MISTAKES = (TypeError, ValueError, IndexError, RuntimeError, AssertionError)  # how a detector says that it cannot


class DetectorRule(HeadRule):
    """A detector of logits or features. Class scores are the logits, or without any those of `neighbours`.

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
        self.classes: Neighbours | None = None
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
        except (*MISTAKES, ImportError) as error:
            raise self.refusal("its settings are refused", error) from error

    def fit(self, outputs: Outputs, targets: Tensor, objective: object | None = None) -> None:
        """Keep what the detector is fitted to. Raises UserError: see `HeadRule.fit`, or it cannot be fitted to it."""
        if self.needs_head:
            super().fit(outputs, targets, objective)
        if "seen" in self.learned:
            self.seen, self.targets = self.values(outputs), targets.cpu()
        self.detector, self.classes = self.fitted(), None

    def fitted(self) -> Any:
        """A detector that has learned from what is kept. Raises UserError: pytorch-ood cannot be fitted to it."""
        if any(getattr(self, name) is None for name in self.learned):
            raise RuntimeError("fit comes before the scores")
        detector = self.make(self.weight, self.bias) if self.needs_head else self.make(torch.eye(2), torch.zeros(2))
        if "seen" in self.learned:
            try:
                with torch.inference_mode(False):
                    getattr(detector, f"fit_{self.reads}")(self.given(self.seen.clone()), self.targets.clone())
            except MISTAKES as error:
                raise self.refusal("it cannot be fitted", error) from error
        return detector

    def refusal(self, what: str, error: Exception) -> UserError:
        """The one line of what pytorch-ood has raised; an assertion of its says nothing by itself."""
        return UserError(f"scoring rule '{self.name}': {what}: {error or 'pytorch-ood gives no reason'}")

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
        """Minus the outlier score, and the class scores. Raises UserError: pytorch-ood cannot judge by its settings."""
        self.detector = self.detector or self.fitted()
        values = self.values(outputs)
        try:
            with torch.inference_mode(False), torch.no_grad():
                outliers = getattr(self.detector, f"predict_{self.reads}")(self.given(values.clone()))
        except MISTAKES as error:
            raise self.refusal("it cannot judge", error) from error
        found = self.class_scores(values) if outputs.logits is None else outputs.logits.double()
        return Scores(-outliers.to(found.device, torch.float64), found)

    def class_scores(self, values: Tensor) -> Tensor:
        """[B, N] float64 of features [B, D]: the sums of `neighbours` among what the detector was fitted to."""
        if self.classes is None:
            self.classes = Neighbours()
            self.classes.fit(Outputs(embedding=self.seen), self.targets)
        return self.classes.scores(Outputs(embedding=values)).class_scores

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.detector = self.classes = None  # fitted anew when they are asked


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
    if name in REFUSED:
        raise UserError(f"scoring rule {BRIDGE}{name} is not offered: {REFUSED[name]}")
    detectors, reads = import_detectors(), supported()
    if name not in reads:
        if name in detectors.__all__:  # of a later version
            raise UserError(f"scoring rule {BRIDGE}{name} is not offered: it reads neither logits nor features alone")
        raise UserError(
            f"unknown scoring rule {show(BRIDGE + name)}: of pytorch-ood's detectors, these read logits or features: "
            f"{', '.join(sorted(reads))}{suggest(name, [*reads, *REFUSED], BRIDGE)}"
        )
    kind, on_features = getattr(detectors, name), reads[name] != "logits"
    needs_head, paper = not inspect.signature(kind).parameters.keys().isdisjoint(HEAD), kind.info.paper
    attributes = {
        "__doc__": kind.__doc__,
        "kind": kind,
        "reads": reads[name],
        "name": BRIDGE + name,
        "paper": f"{paper.title} ({paper.year})" if paper else DETECTORS.get(name, ""),
        "needs": frozenset({*(["logits"] if needs_head or not on_features else []), *(["embedding"] * on_features)}),
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
