"""The digits that scikit-learn bundles: 1,797 grey 8x8 images, no download."""

from __future__ import annotations

import numpy as np
import torch

from nas_osr.data.sources.catalogue import SOURCES
from nas_osr.data.sources.shapes import resize
from nas_osr.seeds import make_generator

_TEST_SHARE = 0.2
_SPLIT_SEED = 0  # part of the definition of the protocol: never change it


def load_digits(part: str) -> tuple[np.ndarray, np.ndarray]:
    """All classes of a part: uint8 [n, 1, 32, 32] and int64 [n].

    Scikit-learn offers no official test set: 20 % of every class, drawn once and for all, are the test part. Values
    0..16 are stretched to 0..255 and the images resized (bilinear, antialiased) to 32x32.
    """
    from sklearn.datasets import load_digits as load_sklearn_digits  # type: ignore[import-untyped]

    bunch = load_sklearn_digits()
    labels = np.asarray(bunch.target, dtype=np.int64)
    in_test = np.zeros(len(labels), dtype=bool)
    for class_id in range(10):
        members = np.flatnonzero(labels == class_id)
        order = torch.randperm(len(members), generator=make_generator(_SPLIT_SEED, "digits", class_id)).numpy()
        in_test[members[order[: round(_TEST_SHARE * len(members))]]] = True
    chosen = in_test if part == "test" else ~in_test
    stretched = torch.from_numpy(np.round(bunch.images[chosen] * (255 / 16)).astype(np.uint8))[:, None]
    _, height, width = SOURCES["digits"].image_shape
    return resize(stretched, height, width).numpy(), labels[chosen]
