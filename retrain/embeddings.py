"""What a network makes of the images, as arrays in a file: for plots and for tools of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from nas_osr.data.dataset import LabelledImages
from nas_osr.evaluation.judging import collect_outputs
from nas_osr.evaluation.predictions import Predictions
from nas_osr.files.storage import replace_file
from nas_osr.objectives.parts.pooling import pool
from nas_osr.outputs import Outputs
from nas_osr.retrain.reopen import Reopened


def write_embeddings(file: Path, opened: Reopened, predictions: Predictions) -> None:
    """Write an .npz file, which `numpy.load` reads; docs/reference/run-folder.md lists its arrays. Raises UserError.

    Args:
        file: its path.
        opened: the network and its images; the test images must have been opened.
        predictions: of the test images, in order, for their labels and classes.
    """
    arrays: dict[str, Any] = {
        "true_label": predictions.true_label,
        "true_class": predictions.true_class.astype(np.str_),
        "known_classes": np.array(opened.protocol.class_names),
        "train_label": opened.data.train.labels.numpy(),
    }
    for prefix, images in (("", opened.data.test()), ("train_", opened.data.train)):
        arrays |= {prefix + name: rows.numpy() for name, rows in embed_images(opened, images).items()}
    with replace_file(file) as target:
        np.savez(target, **arrays)


def embed_images(opened: Reopened, images: LabelledImages) -> dict[str, Tensor]:
    """`pooled` [n, D], the encoder's pooled features, and `embedding`, the objective's own or its latent means."""

    def encode(batch: Tensor) -> Outputs:
        with opened.fabric.autocast():
            return Outputs(embedding=pool(opened.learner.encoder(batch)))

    pooled = collect_outputs(encode, images, device=opened.fabric.device).embedding
    outputs = collect_outputs(opened.learner.infer, images, device=opened.fabric.device)
    embedding = outputs.latent_mean if outputs.embedding is None else outputs.embedding
    return {name: rows for name, rows in (("pooled", pooled), ("embedding", embedding)) if rows is not None}
