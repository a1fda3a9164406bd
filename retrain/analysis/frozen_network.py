"""What the analyses of a trained network share: its features, samples of images, and pictures to show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nas_osr.data.dataset import LabelledImages
from nas_osr.errors import UserError
from nas_osr.evaluation.judging import collect_outputs, judge
from nas_osr.files.storage import replace_file
from nas_osr.objectives.parts.pooling import pool
from nas_osr.outputs import Outputs
from nas_osr.retrain.model_reading import open_model
from nas_osr.retrain.reopen import Reopened
from nas_osr.runs.names import MODEL_FOLDER
from nas_osr.runs.run_folder import RunFolder
from nas_osr.seeds import make_generator


def pooled_features(opened: Reopened, images: LabelledImages) -> Tensor:
    """The encoder's pooled features, those before any head: [n, D] float32 on the CPU, in order.

    UserError: a feature is not a number, or there is no image.
    """

    def infer(batch: Tensor) -> Outputs:
        with opened.fabric.autocast():
            return Outputs(embedding=pool(opened.learner.encoder(batch)))

    embedding = collect_outputs(infer, images, device=opened.fabric.device).embedding
    assert embedding is not None
    return check_finite(opened, embedding)


def check_finite(opened: Reopened, features: Tensor) -> Tensor:
    """The features as they are. Raises UserError when one is not a finite number."""
    if not bool(features.isfinite().all()):
        raise UserError(f"{opened.run.path}: features are not numbers: the network has diverged")
    return features


def known_test_images(opened: Reopened) -> LabelledImages:
    """The test images of known classes."""
    test = opened.data.test()
    return test.select(test.labels < opened.protocol.num_known)


def draw_sample(size: int, limit: int | None, seed: int, *names: object) -> Tensor:
    """Ascending positions of `limit` distinct ones of `size` images, drawn from the stream `names`; or all of them.

    UserError: the limit is not positive.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit must be at least 1, got {limit}")
    if limit is None or limit >= size:
        return torch.arange(size)
    return torch.randperm(size, generator=make_generator(seed, "analysis", *names))[:limit].sort().values


def name_given(opened: Reopened, images: Tensor) -> list[str]:
    """What the run's own model calls images [n, C, H, W] in [0, 1] by its rule's threshold: a class, or "unknown".

    Empty texts where an earlier version has left no model folder.
    """
    if not (opened.run.path / MODEL_FOLDER).is_dir():
        return [""] * len(images)
    model = open_model(opened.run.path)
    names = [*model.inputs.classes, "unknown"]
    with torch.inference_mode():
        judgements = judge(model.rule, model.rule.observe(model.learner.infer, images.cpu()))
    return [names[label] for label in judgements.predicted_label.tolist()]


def keep_pictures(
    run: RunFolder, name: str, images: Tensor, true: Sequence[str], given: Sequence[str], **more: Any
) -> None:
    """Leave pictures in a run folder as analysis-NAME.npz, for `nas-osr plot` (docs/reference/run-folder.md).

    Args:
        images: [n, k, C, H, W] in [0, 1]: of each of n images k pictures, the first itself.
        true, given: of each image its class, and what the model calls it; empty where it is not known.
        more: further arrays.
    """
    arrays = {"images": images.clamp(0, 1).mul(255).round().byte().cpu().numpy(), **more}
    with replace_file(run.path / f"analysis-{name}.npz") as file:
        np.savez(file, true=np.array(true, np.str_), given=np.array(given, np.str_), **arrays)
