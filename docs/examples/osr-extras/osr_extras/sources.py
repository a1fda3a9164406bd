"""A data set that is made."""

import numpy as np

from nas_osr.data.sources.base import Source


class Rings(Source):
    """Noisy rings; the classes are their radii."""

    name = "rings"
    class_names = ("3", "5", "7", "9", "11")
    file_shape = image_shape = (1, 32, 32)
    mean, std = (0.3,), (0.2,)
    counts = {"train": 200, "test": 100}
    comes_with = "osr-extras"

    def read(self, part, classes, image_shape, limit):
        """All images of a part, uint8 [n, 1, 32, 32], and their class ids, int64 [n]."""
        generator = np.random.default_rng(("train", "test").index(part))
        labels = np.arange(self.counts[part]) % len(self.class_names)
        away = np.hypot(*np.mgrid[-15.5:16.5, -15.5:16.5])
        rings = np.abs(away - (3 + 2 * labels[:, None, None])) < 1.5
        pixels = 40 + 120 * rings + generator.integers(0, 80, rings.shape)
        return pixels.astype(np.uint8)[:, None], labels
