"""From a network and images to outputs, and from outputs and a fitted rule to metrics and predictions."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from nas_osr.data.batches import iterate_batches, to_float
from nas_osr.data.dataset import VALIDATION_SHARE, LabelledImages
from nas_osr.errors import UserError
from nas_osr.evaluation.predictions import Judgements, Predictions
from nas_osr.outputs import Outputs
from nas_osr.scoring.base import ScoringRule

logger = logging.getLogger(__name__)

INFERENCE_BATCH = 250  # images in a forward pass without gradients


def collect_outputs(
    module_forward: Callable[[Tensor], Outputs],
    data: LabelledImages,
    batch_size: int = INFERENCE_BATCH,
    device: torch.device | str = "cpu",
) -> Outputs:
    """The outputs for all images, in order, on the CPU; without gradients.

    Args:
        module_forward: images [b, C, H, W] float32 in [0, 1] on `device` -> Outputs. The modules behind it must be in
            eval mode already, or these images would enter their BatchNorm statistics.
        data: at least one image.
        batch_size: images in a forward pass; the last may be smaller.
        device: where the forward pass runs.
    """
    parts = []
    with torch.inference_mode():
        for images, _ in iterate_batches(data, batch_size, generator=None):
            parts.append(module_forward(to_float(images.to(device))))  # left there: each copy would wait for the device
    if not parts:
        raise UserError("there are no images to evaluate")
    return Outputs.concatenate(parts).map(lambda tensor: tensor.cpu())


def collect_for(
    rules: Sequence[ScoringRule],
    module_forward: Callable[[Tensor], Outputs],
    data: LabelledImages,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[Outputs, list[ScoringRule]]]:
    """What each rule is given for some images, with the rules that are given it; arguments as of `collect_outputs`.

    Rules that ask for no more than the network's outputs share them, computed once. Any other looks for itself.
    """
    sharing = [rule for rule in rules if not rule.needs_network]
    if sharing:
        yield collect_outputs(module_forward, data, device=device), sharing
    for rule in rules:
        if rule.needs_network:
            yield collect_outputs(partial(rule.observe, module_forward), data, device=device), [rule]


def decoder_figures(
    reconstruct: Callable[[Tensor], Tensor | None], data: LabelledImages, batch_size: int = INFERENCE_BATCH
) -> dict[str, float]:
    """What to log of a decoder: `decoder_share`, its squared error as a share of that of the mean of these images.

    0 is a perfect decoder; 1 is what one that sees nothing of an image can reach. Empty without a decoder, or where all
    images are the same.

    Args:
        reconstruct: images [b, C, H, W] float32 in [0, 1] -> the same as they are decoded, or None; in eval mode.
        data: at least one image, on the device of `reconstruct`.
    """
    mean = data.images.sum(dim=0, dtype=torch.float64) / len(data) / 255
    error, spread = torch.zeros_like(mean), torch.zeros_like(mean)
    with torch.inference_mode():
        for batch, _ in iterate_batches(data, batch_size, generator=None):
            decoded, images = reconstruct(to_float(batch)), batch.double() / 255
            if decoded is None:
                return {}
            error += (decoded - images).square().sum(dim=0)
            spread += (images - mean).square().sum(dim=0)
    return {"decoder_share": float(error.sum() / spread.sum())} if spread.any() else {}


def warn_of_few_images(rule: ScoringRule, count: int) -> None:
    """A line where `count` known validation images are too few for a threshold that accepts what the rule asks for.

    A share a of them is a quantile of finite samples from n = a / (1 - a) on, where one in n + 1 is rejected.
    """
    needed = math.ceil(round(rule.acceptance / (1 - rule.acceptance), 6))
    if count < needed:
        logger.warning(
            "%d known validation images are too few for a threshold that accepts %g %% of known images: %d would do "
            "(about %d training images)",
            count, 100 * rule.acceptance, needed, round(needed / VALIDATION_SHARE),
        )  # fmt: skip


def warn_of_short_classes(rule: ScoringRule, labels: Tensor, names: Sequence[str]) -> None:
    """Log what `short_classes` says."""
    if (short := short_classes(rule, labels, names)) is not None:
        logger.warning(short)


def short_classes(rule: ScoringRule, labels: Tensor, names: Sequence[str]) -> str | None:
    """A line that names the classes of which there are fewer known validation images than the rule learns of a class.

    Args:
        rule: whose `fewest` counts.
        labels: [B] int64 in 0..N-1, of the images.
        names: [N] of the classes.
    """
    counts = torch.bincount(labels.cpu(), minlength=len(names)).tolist()
    short = [name for name, count in zip(names, counts, strict=True) if count < rule.fewest]
    if not short:
        return None
    few = f"fewer than {rule.fewest} known validation images of {', '.join(short)}"
    return f"scoring rule '{rule.name}': {few}: judged on the scale of all classes there"


def judge(rule: ScoringRule, outputs: Outputs) -> Judgements:
    """What a fitted rule with a threshold says of some images.

    Raises:
        UserError: the rule's scores are not numbers (the network has diverged).
    """
    scores = rule.scores(outputs)
    knownness = scores.ranking.double().cpu().numpy()
    if np.isnan(knownness).any():
        raise rule.diverged(f"{int(np.isnan(knownness).sum())} of {len(knownness)} scores")
    logits = outputs.logits
    return Judgements(
        index=np.arange(len(knownness)),
        predicted_label=rule.decide(scores).cpu().numpy(),
        closed_set_label=scores.labels.cpu().numpy(),
        knownness=knownness,
        class_scores=(scores.class_scores if logits is None else logits.double()).cpu().numpy(),
        column="score" if logits is None else "logit",
    )


def evaluate_rule(
    rule: ScoringRule,
    outputs: Outputs,
    labels: Tensor,
    source_labels: Tensor,
    *,
    known_names: Mapping[int, str] | None = None,
    unknown_names: Mapping[int, str] | None = None,
) -> tuple[dict[str, float | None], Predictions]:
    """The metrics of a fitted rule with a threshold on test outputs, and the table behind them.

    Args:
        outputs: of B images; what the rule needs is there.
        labels: [B] in 0..N, N = unknown.
        source_labels: [B] class ids in the source that each image comes from.
        known_names, unknown_names: names by source class id for the table; an id without a name is written as a number.
            Two maps, because known and unknown images may come from different sources with the same ids.

    Raises:
        UserError: the rule's scores are not numbers (the network has diverged).
    """
    judgements = judge(rule, outputs)
    known, unknown = known_names or {}, unknown_names or {}
    true_label = labels.cpu().numpy()
    true_class = [
        (unknown if label == judgements.num_known else known).get(source, str(source))
        for label, source in zip(true_label.tolist(), source_labels.tolist(), strict=True)
    ]
    predictions = Predictions(**vars(judgements), true_label=true_label, true_class=np.array(true_class, dtype=str))
    return predictions.metrics(), predictions
