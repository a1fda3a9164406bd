"""SVHN, the cropped house numbers (Netzer et al.): colour 32x32 images in MATLAB files."""

from __future__ import annotations

import io
from collections.abc import Collection
from pathlib import Path

from nas_osr.data.sources.base import Arrays, Source
from nas_osr.data.sources.class_folders import DIGIT_WORDS
from nas_osr.data.sources.official_files import read_official
from nas_osr.data.sources.places import Archive

_MD5 = {"train": "e26dedcc434d2e4c54c9b2d4a06d8373", "test": "eb5a983be6a315427106f1b164d9cef3"}


class SVHN(Source):
    """Digits on house walls; the usual pixel statistics of the training images (never the extra ones)."""

    name = "svhn"
    class_names = tuple("0123456789")
    aliases = DIGIT_WORDS
    file_shape = image_shape = (3, 32, 32)
    mean, std = (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)
    counts = {"train": 73257, "test": 26032}
    mirrors = False
    official = "{part}_32x32.mat"
    checksums = {part: {f"{part}_32x32.mat": md5} for part, md5 in _MD5.items()}
    archives = tuple(
        Archive((f"http://ufldl.stanford.edu/housenumbers/{part}_32x32.mat",), md5, unpack=False)
        for part, md5 in _MD5.items()
    )
    megabytes = 246

    def read_official(self, path: Path, part: str, classes: Collection[int], limit: int | None) -> Arrays:
        """All images of a part. No file but the official one is opened: SciPy's reader can crash on a damaged one."""
        import numpy as np
        from scipy.io import loadmat

        content = read_official(path, self.checksums[part][path.name], self.name)
        arrays = loadmat(io.BytesIO(content), variable_names=("X", "y"))  # [32, 32, 3, n]; [n, 1], 10 is the digit 0
        labels = arrays["y"].reshape(-1).astype(np.int64) % 10
        return np.ascontiguousarray(arrays["X"].transpose(3, 2, 0, 1)), labels
