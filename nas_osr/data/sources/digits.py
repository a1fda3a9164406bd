"""The digits that scikit-learn bundles: 1,797 grey 8x8 images, no download."""

from __future__ import annotations

from collections.abc import Collection

from nas_osr.data.sources.base import Arrays, Shape, Source
from nas_osr.seeds import make_generator

_TEST_SHARE = 0.2
_SPLIT_SEED = 0  # part of the definition of the protocol: never change it


class Digits(Source):
    """Grey digits, at 32x32.

    Scikit-learn offers no official test set: 20 % of every class, drawn once and for all, are the test part. Values
    0..16 are stretched to 0..255 and the images resized (bilinear, antialiased).
    """

    name = "digits"
    class_names = tuple("0123456789")
    file_shape = (1, 8, 8)
    image_shape = (1, 32, 32)
    mean, std = (0.3054,), (0.3235,)  # of the training images at 32 pixels
    counts = {"train": 1438, "test": 359}
    mirrors = False
    comes_with = "scikit-learn"

    def read(self, part: str, classes: Collection[int], image_shape: Shape, limit: int | None) -> Arrays:
        """All images of a part."""
        import numpy as np
        import torch
        from sklearn.datasets import load_digits

        from nas_osr.data.sources.shapes import resize

        bunch = load_digits()
        labels = np.asarray(bunch.target, dtype=np.int64)
        in_test = np.zeros(len(labels), dtype=bool)
        for class_id in range(10):
            members = np.flatnonzero(labels == class_id)
            order = torch.randperm(len(members), generator=make_generator(_SPLIT_SEED, "digits", class_id)).numpy()
            in_test[members[order[: round(_TEST_SHARE * len(members))]]] = True
        chosen = in_test if part == "test" else ~in_test
        stretched = torch.from_numpy(np.round(bunch.images[chosen] * (255 / 16)).astype(np.uint8))[:, None]
        return resize(stretched, *self.image_shape[1:]).numpy(), labels[chosen]
