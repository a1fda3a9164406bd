"""What a search sees: kept and pseudo-unknown classes, their images in two halves (PAS), and how they are told apart.

Only known training and validation images come in; nothing here can reach a test image or a true unknown class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from math import gcd

import torch
from torch import Tensor

from nas_osr.data.dataset import VALIDATION_SHARE, LabelledImages, OpenSetData
from nas_osr.data.protocols import Protocol
from nas_osr.data.rehearsal import check_pseudo_unknown
from nas_osr.errors import UserError
from nas_osr.evaluation.judging import collect_outputs
from nas_osr.metrics.open_set import auroc, closed_set_accuracy, macro_f1, oscr
from nas_osr.objectives.base import Objective
from nas_osr.outputs import Outputs
from nas_osr.scoring.base import ScoringRule
from nas_osr.seeds import make_generator


@dataclass(frozen=True)
class Classes:
    """The protocol's labels that are kept in a search, and those that play the unknown."""

    kept: tuple[int, ...]
    pseudo: tuple[int, ...]

    @classmethod
    def without(cls, pseudo: Sequence[int], count: int) -> Classes:
        """All of `count` labels are kept, but for `pseudo`. Raises UserError: see `check_pseudo_unknown`."""
        chosen = check_pseudo_unknown(pseudo, count)
        return cls(tuple(label for label in range(count) if label not in chosen), chosen)

    def rotate(self, rotations: int, seed: int) -> tuple[Classes, ...]:
        """So many choices of as many pseudo-unknown classes, all different: this one, then others in turn.

        Every known class plays the unknown once before one does so twice. UserError: there are not so many.
        """
        size, count = len(self.pseudo), len(self.kept) + len(self.pseudo)
        order = torch.randperm(len(self.kept), generator=make_generator(seed, "rotations")).tolist()
        turn = [*self.pseudo, *(self.kept[place] for place in order)]
        starts = [rotation * size for rotation in range(rotations)]
        chosen = [tuple(turn[(start + place) % count] for place in range(size)) for start in starts]
        most = count // gcd(size, count) if size else 0
        if rotations > most:
            raise UserError(
                f"rotations must be at most {most}: {size} of {count} known classes play the unknown in each, "
                f"got {rotations}"
            )
        return (self, *(Classes.without(labels, count) for labels in chosen[1:]))


@dataclass(frozen=True)
class SearchData:
    """What a search may see. Labels are 0..K-1 for the K kept classes and K for pseudo-unknown images."""

    weight: LabelledImages
    "one half of the kept training images."
    architecture: LabelledImages
    "the other half."
    fit_sample: LabelledImages
    "kept training images on which the scoring rule is fitted."
    validation: LabelledImages
    "kept validation images; they set the threshold and are scored."
    pseudo_unknown: LabelledImages
    "as many images of each pseudo-unknown class as validation has of a kept one; scored only."

    def to(self, device: str | torch.device) -> SearchData:
        """The same on another device."""
        return SearchData(**{item.name: getattr(self, item.name).to(device) for item in fields(self)})

    def training(self) -> LabelledImages:
        """All kept training images: both halves."""
        return join(self.weight, self.architecture)

    def scored(self) -> LabelledImages:
        """Kept validation images and pseudo-unknown images together."""
        return join(self.validation, self.pseudo_unknown)


@dataclass(frozen=True)
class ImageCounts:
    """How many images a search sees: in its kept training images, in each half of them, and in each judgement."""

    training: int
    half: int
    judged: int


def count_search_images(known: Sequence[int], classes: Classes, rule_sample: int) -> ImageCounts:
    """What `split_for_search` leaves, near enough for an estimate, of so many images of each known label."""
    kept = sum(known[label] for label in classes.kept)
    validation = round(VALIDATION_SHARE * kept)
    half = (kept - validation) // 2
    pseudo_unknown = validation // len(classes.kept) * len(classes.pseudo)
    return ImageCounts(2 * half, half, min(rule_sample, 2 * half) + validation + pseudo_unknown)


def join(*parts: LabelledImages) -> LabelledImages:
    """Images one after the other."""
    return LabelledImages(
        torch.cat([part.images for part in parts]),
        torch.cat([part.labels for part in parts]),
        torch.cat([part.source_labels for part in parts]),
    )


def choose_pseudo_unknown(protocol: Protocol, given: Sequence[int] | None, seed: int) -> Classes:
    """The labels that play the unknown: given, published with the split, or max(1, round(N / 3)) drawn from the seed.

    Raises UserError when a given label is not one of 0..N-1, or when fewer than two classes would be kept.
    """
    count = protocol.num_known
    chosen: Sequence[int]
    if given is not None:
        chosen = given
    elif protocol.pseudo_unknown is not None:
        chosen = protocol.pseudo_unknown
    else:
        order = torch.randperm(count, generator=make_generator(seed, "pseudo-unknown"))
        chosen = order[: max(1, round(count / 3))].tolist()
    return Classes.without(chosen, count)


def split_for_search(data: OpenSetData, classes: Classes, seed: int, rule_sample: int) -> SearchData:
    """Divide known training and validation images for a search; the halves are equal in every class (NAS-OSR, 50/50).

    Args:
        data: known images; `data.test` is not called.
        classes: labels that are kept, and labels that play the unknown, which may be none.
        seed: seed of all draws.
        rule_sample: how many kept training images the rule is fitted on, at most.
    """
    kept = classes.kept
    relabel = torch.full((data.protocol.num_known,), len(kept))
    relabel[list(kept)] = torch.arange(len(kept))

    def draw(labels: Tensor, label: int, *names: object) -> Tensor:
        """Positions of a class in random order."""
        positions = torch.nonzero(labels == label).flatten()
        return positions[torch.randperm(len(positions), generator=make_generator(seed, *names, label))]

    weight, architecture = [], []
    for label in kept:
        order = draw(data.train.labels, label, "halves")
        cut = len(order) // 2
        if cut == 0:
            raise UserError(
                f"{data.source.where}: class {data.protocol.class_names[label]} has {len(order)} training image: "
                "too few for two halves"
            )
        architecture.append(order[:cut])
        weight.append(order[cut:])
    halves = torch.cat(weight + architecture)
    sample = halves[torch.randperm(len(halves), generator=make_generator(seed, "rule-sample"))[:rule_sample]]

    validation = torch.cat([torch.nonzero(data.validation.labels == label).flatten() for label in kept])
    per_class = len(validation) // len(kept)
    unknown = [draw(data.train.labels, label, "pseudo-unknown images")[:per_class] for label in classes.pseudo]

    def select(images: LabelledImages, index: Tensor) -> LabelledImages:
        chosen = images.select(index)
        return LabelledImages(chosen.images, relabel[chosen.labels], chosen.source_labels)

    return SearchData(
        weight=select(data.train, torch.cat(weight)),
        architecture=select(data.train, torch.cat(architecture)),
        fit_sample=select(data.train, sample),
        validation=select(data.validation, validation),
        pseudo_unknown=select(data.train, torch.cat(unknown) if unknown else torch.zeros(0, dtype=torch.long)),
    )


def pseudo_open_set_scores(
    infer: Callable[[Tensor], Outputs], objective: Objective, rule: ScoringRule, split: SearchData
) -> dict[str, float | None]:
    """How well a network in eval mode tells kept classes and pseudo-unknown images apart.

    The rule learns from kept training images and its threshold from kept validation images only.

    Args:
        infer: images [b, C, H, W] float32 in [0, 1] -> Outputs, in the training's precision.
        objective: whose heads the network has.
        rule: not fitted.
        split: on the device of `infer`.

    Returns:
        f1: macro-F1 over the kept classes and "unknown" (over the kept ones alone when nothing plays the unknown).
        auroc, oscr: of pseudo-unknown against kept images, None without any.
        accuracy: share of the kept validation images whose most likely class is right.
        threshold: the rule's.
    """
    collect = partial(collect_outputs, partial(rule.observe, infer), device=split.validation.labels.device)
    if rule.learns:
        rule.fit(collect(split.fit_sample), split.fit_sample.labels.cpu(), objective)
    scored, known = split.scored(), len(split.validation)
    outputs = collect(scored)
    rule.set_threshold(outputs[:known], split.validation.labels.cpu())
    scores = rule.scores(outputs)
    truth, unknown = scored.labels.cpu().numpy(), objective.num_classes
    ranking, closed = scores.ranking.numpy(), scores.labels.numpy()
    return {
        "f1": macro_f1(truth, rule.decide(scores).numpy(), unknown),
        "auroc": auroc(ranking, truth == unknown),
        "oscr": oscr(ranking, closed, truth, unknown),
        "accuracy": closed_set_accuracy(closed, truth, unknown),
        "threshold": rule.threshold,
    }
