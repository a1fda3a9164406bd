"""Scoring rules on outputs that a user brings, of any network: `nas_osr.evaluation.user_arrays` reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nas_osr.errors import UserError
from nas_osr.evaluation.judging import evaluate_rule, judge, short_classes
from nas_osr.evaluation.predictions import Judgements
from nas_osr.evaluation.user_arrays import PART_NAMES, PartArrays, check_names, hold_out, read_column, read_parts
from nas_osr.evaluation.user_labels import number_names, suspect_flags
from nas_osr.outputs import Outputs
from nas_osr.scoring import make_rule
from nas_osr.scoring.base import ScoringRule


@dataclass(frozen=True)
class Scored:
    """What a rule made of a user's arrays.

    Attributes:
        rule: fitted, with its threshold.
        judgements: of the test images; `nas_osr.evaluation.predictions.Predictions` where there are test_labels.
        metrics: see `nas_osr.metrics.open_set.evaluate_open_set`; empty without test_labels. Openness is None
            where unknown images come without test_classes: of how many classes they are is not known then.
        images: how many images the rule was fitted to ("train"), took its threshold from ("validation") and judged.
        notes: what was decided for the user, a sentence each.
        names: of the known classes, in the order of their labels.
    """

    rule: ScoringRule
    judgements: Judgements
    metrics: dict[str, float | None]
    images: dict[str, int]
    notes: tuple[str, ...]
    names: tuple[str, ...]


def score_arrays(
    arrays: Mapping[str, Any], rule: str, rule_config: Mapping[str, Any] | None = None, seed: int = 0
) -> Scored:
    """Fit a rule to train arrays, take its threshold from validation arrays, and judge the test arrays.

    Without validation arrays a tenth of every class of the train arrays sets the threshold, and the rule is fitted to
    the others. A rule that is not fitted needs no train arrays beside validation arrays.

    Args:
        arrays: by name: the fields that the rule needs, [B, columns] of finite numbers; labels, [B] whole numbers or
            names; test_classes, [B] whole numbers or text, the class that each test image really is of. Logits are
            used where every part has them: they become the last columns of the predictions.
        rule: its name, or the dotted path of a plug-in.
        rule_config: its settings.
        seed: of what is held out.

    Raises:
        UserError: no such rule or setting; an array is missing, has a name that means nothing, another shape than its
            fellows, or values that are not finite or out of range; a class has no training image.
    """
    chosen = make_rule(rule, rule_config)
    if chosen.needs_network:
        raise UserError(f"scoring rule '{rule}' asks the network itself: it needs more than arrays of outputs")
    check_names(arrays)
    separate = any(name.startswith("validation_") for name in arrays)
    if not chosen.learns and not separate and not all(f"train_{name}" in arrays for name in chosen.needs):
        raise UserError(f"no validation_ arrays: scoring rule '{rule}' takes its threshold from known images")
    names = [*(["train"] if chosen.learns or not separate else []), *(["validation"] if separate else []), "test"]
    arrays, given = number_names(arrays, names)
    parts, num_known = read_parts(arrays, names, chosen.needs, f"scoring rule '{rule}'")

    notes = []
    if given:
        notes.append(f"labels are names: columns for the classes are taken in the order {', '.join(given)}")
    if not separate:
        every = len(parts["train"])
        parts["train"], parts["validation"] = hold_out(parts["train"], seed)
        notes.append(
            f"no validation arrays: {len(parts['validation'])} of {every} training images, a tenth of each class, "
            "were held out and set the threshold"
        )
    if chosen.learns:
        chosen.fit(*tensors(parts["train"]))
    else:
        parts.pop("train", None)
    chosen.set_threshold(*tensors(parts["validation"]))

    called = tuple(given or map(str, range(num_known)))
    if (short := short_classes(chosen, tensors(parts["validation"])[1], called)) is not None:
        notes.append(short)
    judgements, metrics = judge_test(chosen, parts["test"], arrays, called)
    tested = parts["test"].labels
    if tested is not None and suspect_flags(tested, num_known):
        notes.append(f"warning: test_labels are 0 and 1 alone, of {num_known} classes: flags would give wrong figures")
    if metrics and metrics["openness_cac"] is None:
        notes.append("no test_classes: of how many classes the unknown images are, and so the openness, is not known")
    images = {name: len(parts[name]) for name in PART_NAMES if name in parts}
    return Scored(chosen, judgements, metrics, images, tuple(notes), called)


def judge_test(
    rule: ScoringRule, test: PartArrays, arrays: Mapping[str, Any], known: Sequence[str]
) -> tuple[Judgements, dict[str, float | None]]:
    """What the rule says of the test images, and the metrics where their labels are there (see `Scored`)."""
    expected = "names or whole numbers, one for each test image"
    classes = read_column(arrays, "test_classes", "iuU", expected, len(test))
    if test.labels is None:
        if classes is not None:
            raise UserError("array test_labels is missing, but test_classes is there: give both or neither")
        return judge(rule, tensors(test)[0]), {}
    if classes is None:
        names, codes = np.array([*known, "unknown"]), test.labels
    else:
        names, codes = np.unique(classes.astype(str), return_inverse=True)
    called = dict(enumerate(names.tolist()))
    outputs, labels = tensors(test)
    metrics, predictions = evaluate_rule(
        rule, outputs, labels, torch.from_numpy(codes), known_names=called, unknown_names=called
    )
    if classes is None and (test.labels == len(known)).any():
        metrics |= {"openness_cac": None, "openness_gradmix": None}
    return predictions, metrics


def tensors(part: PartArrays) -> tuple[Outputs, Tensor]:
    """The fields as `Outputs`, and the labels [B] int64 (all 0 where there are none)."""
    labels = np.zeros(len(part), dtype=np.int64) if part.labels is None else part.labels
    fields = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in part.fields.items()}
    return Outputs(**fields), torch.from_numpy(labels)
