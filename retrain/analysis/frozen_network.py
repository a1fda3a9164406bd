"""What the analyses of a trained network share: its features, samples of images."""

from __future__ import annotations

import torch
from torch import Tensor

from nas_osr.data.dataset import LabelledImages
from nas_osr.errors import UserError
from nas_osr.evaluation.judging import collect_outputs
from nas_osr.objectives.parts.pooling import pool
from nas_osr.outputs import Outputs
from nas_osr.retrain.reopen import Reopened
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
