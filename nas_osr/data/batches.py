"""Batches of a data set that lives in one tensor."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from nas_osr.data.dataset import LabelledImages


def iterate_batches(
    data: LabelledImages,
    batch_size: int,
    *,
    generator: torch.Generator | None = None,
    drop_last: bool = False,
    mirrored: Tensor | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """One pass over the data.

    Args:
        batch_size: images a batch, at least 1; the last batch holds the rest.
        generator: shuffles; None keeps the order. It may live on another device than the images.
        drop_last: leave out a last batch that is not full.
        mirrored: [n] bool on the data's device: which images of a shuffled pass are given as their mirror image, left
            to right.

    Yields:
        images uint8 [B, C, H, W] and labels int64 [B], on the data's device.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    end = len(data) - len(data) % batch_size if drop_last else len(data)
    if generator is None:
        for start in range(0, end, batch_size):
            stop = min(start + batch_size, end)
            yield data.images[start:stop], data.labels[start:stop]
        return
    order = torch.randperm(len(data), generator=generator, device=generator.device).to(data.labels.device)
    for index in order[:end].split(batch_size):
        images = data.images[index]
        if mirrored is not None:
            images = torch.where(mirrored[index, None, None, None], images.flip(-1), images)
        yield images, data.labels[index]


def to_float(images: Tensor) -> Tensor:
    """uint8 in 0..255 -> float32 in [0, 1]."""
    return images.to(torch.float32).div_(255)
