"""The interface of every scoring rule: fit, threshold, scores, decision."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from nas_osr.errors import UserError
from nas_osr.outputs import Outputs


class Scores(NamedTuple):
    """What a rule says of B images."""

    knownness: Tensor
    "[B] float64, higher = more known."
    class_scores: Tensor
    """[B, N] float64, higher = more likely that class; -inf for one that cannot be the label. The logits, for a rule
    that has no other opinion of which class it is."""
    order: Tensor | None = None
    "[B] float64, what ranks the images where it is not knownness, which then only decides."

    @property
    def labels(self) -> Tensor:
        """[B] int64, the most likely known class in 0..N-1, accepted or not: the one with the largest class score."""
        return self.class_scores.argmax(dim=1)

    @property
    def ranking(self) -> Tensor:
        """[B] float64, higher = more known: what every figure without a threshold (AUROC, OSCR) is computed from."""
        return self.knownness if self.order is None else self.order


class ScoringRule:
    """Turns `Outputs` into `Scores`, and rejects images as unknown below a threshold of knownness.

    Life cycle: `fit` on known training outputs, `set_threshold` on known validation outputs, then `scores` and `decide`
    on anything. Subclasses set `name` and `needs` and implement `scores`; one that learns implements `fit` and sets
    `learned`, too.

    Attributes:
        name: the registered name.
        paper: where it comes from, for `nas-osr rules`.
        needs: the fields of `Outputs` that the rule reads.
        needs_head: whether the rule reads the layer that turns the embedding into logits (`Objective.linear_head`).
        needs_network: whether the rule asks the network itself, see `observe`.
        observes: the fields of `Observed` that `observe` fills, and the rule reads.
        needs_side: the side task that the network must have learned; "" without one.
        no_graph: why the rule cannot be part of a graph of ONNX; empty when it can.
        learned: the attributes, beside the threshold, that `fit` and `set_threshold` set: tensors, plain numbers or
            words, which `state_dict` keeps. None before.
        fewest: known validation images of a class from which on the rule learns of the class by itself; 0: it does not.
        fits_mirrored: whether a retraining gives `fit` the mirror images of training images, too, where they show the
            same class.
        threshold: images with knownness below it are unknown; None before `set_threshold`.
        acceptance: the share of known validation images to accept, in (0, 1).
    """

    name: ClassVar[str]
    paper: ClassVar[str] = ""
    needs: ClassVar[frozenset[str]]
    needs_head: ClassVar[bool] = False
    needs_network: ClassVar[bool] = False
    observes: ClassVar[frozenset[str]] = frozenset()
    needs_side: ClassVar[str] = ""
    no_graph: ClassVar[str] = ""
    learned: ClassVar[tuple[str, ...]] = ()
    fewest: ClassVar[int] = 0
    fits_mirrored: ClassVar[bool] = False

    def __init__(self, acceptance: float = 0.95) -> None:
        self.acceptance = self.check_share("acceptance", acceptance)
        self.threshold: float | None = None
        for name in self.learned:
            setattr(self, name, getattr(self, name, None))

    @property
    def learns(self) -> bool:
        """Whether `fit` does anything, so that outputs for training images have to be computed."""
        return type(self).fit is not ScoringRule.fit

    def observe(self, infer: Callable[..., Outputs], images: Tensor) -> Outputs:
        """What `fit`, `set_threshold` and `scores` are given for images [B, C, H, W] in [0, 1].

        Here: the outputs of the network, `infer`, in eval mode, as they are; all such rules share them. A rule that
        sets `needs_network` may look several times, ask for more (`infer(images, whole=True)` gives `Observed`), and
        take gradients with respect to the images (never to weights).
        """
        return infer(images)

    def fit(self, outputs: Outputs, targets: Tensor, objective: object | None = None) -> None:
        """Learn from known training images. targets: [B] int64 in 0..N-1. The default learns nothing."""

    def set_threshold(self, outputs: Outputs, targets: Tensor) -> None:
        """Choose the threshold that accepts the share `acceptance` of these known validation images.

        Raises:
            UserError: there is no image, or a knownness is not a number (the network has diverged).
        """
        self.threshold = self.quantile(self.scores(outputs).knownness, 1.0 - self.acceptance)

    def threshold_source(self) -> dict[str, Any]:
        """What set the threshold, as plain values for metrics.json: `picker`, and what it found."""
        own = type(self).set_threshold is not ScoringRule.set_threshold
        return {} if own else {"picker": "quantile", "acceptance": self.acceptance}

    def scores(self, outputs: Outputs) -> Scores:
        """Knownness and class scores of B images."""
        raise NotImplementedError

    def decide(self, scores: Scores) -> Tensor:
        """[B] int64: the labels, or N (the number of known classes) where knownness is below the threshold."""
        if self.threshold is None:
            raise RuntimeError("set_threshold comes before decide")
        unknown = scores.class_scores.shape[1]
        return scores.labels.masked_fill(scores.knownness < self.threshold, unknown)

    def state_dict(self) -> dict[str, Any]:
        """What `fit` and `set_threshold` learned."""
        return {name: getattr(self, name) for name in ("threshold", *self.learned)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for name in ("threshold", *self.learned):
            setattr(self, name, state[name])

    def quantile(self, scores: Tensor, share: float) -> float:
        """The `share` quantile (linear interpolation, float64) of the scores [B] of known validation images.

        Raises:
            UserError: there is no image, or a score is not a number.
        """
        if len(scores) == 0:
            raise UserError(f"scoring rule '{self.name}': no known validation image to set the threshold on")
        value = float(torch.quantile(scores.double(), share))
        if math.isnan(value):
            raise self.diverged("scores of known validation images")
        return value

    def learnt(self, name: str, like: Tensor) -> Tensor:
        """A tensor that `fit` has set, on the device of another. Raises RuntimeError before `fit`."""
        value = getattr(self, name)
        if value is None:
            raise RuntimeError("fit comes before the scores")
        return value.to(like.device)

    def diverged(self, what: str) -> UserError:
        """The error to raise where `what` holds something that is not a number."""
        return UserError(
            f"scoring rule '{self.name}': {what} are not numbers; the network has diverged, try a lower learning rate"
        )

    def check_share(self, setting: str, value: object) -> float:
        """A setting that is a share, or UserError unless it lies strictly between 0 and 1."""
        if not isinstance(value, (int, float)) or not 0.0 < value < 1.0:
            raise UserError(f"scoring rule '{self.name}': {setting} must lie strictly between 0 and 1, not {value!r}")
        return float(value)

    def check_count(self, setting: str, value: object) -> int:
        """A setting that counts something, or UserError unless it is a whole number of at least 1."""
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(
                f"scoring rule '{self.name}': {setting} must be a whole number of at least 1, not {value!r}"
            )
        return value


def count_classes(outputs: Outputs, targets: Tensor, objective: object | None = None) -> int:
    """N, in training: the width of the logits, else the objective's `num_classes`, else the largest target + 1."""
    if outputs.logits is not None:
        return outputs.logits.shape[1]
    classes = getattr(objective, "num_classes", None)
    return classes if isinstance(classes, int) else int(targets.max()) + 1


def members_by_class(logits: Tensor, targets: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The classes with training images, each with a mask [B] of those that stand for it.

    They are the correctly classified ones, by logits [B, N] and targets [B], or all where none is correct.
    """
    right = logits.argmax(dim=1) == targets
    for label in range(logits.shape[1]):
        members = targets == label
        if members.any():
            yield label, members & right if (members & right).any() else members


def in_blocks(rows: Tensor, size: int) -> Sequence[Tensor]:
    """The rows of a tensor, `size` at a time to save memory; all at once in a graph that is exported."""
    return [rows] if torch.compiler.is_compiling() else rows.split(size)


#: Larger values count as this: squares, and sums over images, stay finite in float64.
VALUE_LIMIT = 1e100


def bounded(values: Tensor | None) -> Tensor:
    """A copy of a field of `Outputs` that a rule needs, as float64 within ±`VALUE_LIMIT`."""
    assert values is not None
    return values.to(torch.float64, copy=True).clamp_(-VALUE_LIMIT, VALUE_LIMIT)  # one copy, not two
