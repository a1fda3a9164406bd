"""Batches: every image once, in order or shuffled by the generator."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nas_osr.data.batches import iterate_batches, to_float
from nas_osr.data.dataset import LabelledImages


def numbered(count: int) -> LabelledImages:
    labels = torch.arange(count)
    return LabelledImages(labels.to(torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2), labels, labels)


@given(st.integers(0, 40), st.integers(1, 12), st.booleans(), st.booleans())
def test_every_image_once(count: int, size: int, shuffled: bool, drop_last: bool) -> None:
    generator = torch.Generator().manual_seed(3) if shuffled else None
    batches = list(iterate_batches(numbered(count), size, generator=generator, drop_last=drop_last))
    labels = [label for _, batch in batches for label in batch.tolist()]
    assert len(labels) == len(set(labels)) == (count - count % size if drop_last else count)
    assert all(len(batch) == size for _, batch in batches[:-1])
    assert all(images[:, 0, 0, 0].tolist() == batch.tolist() for images, batch in batches)
    if not shuffled:
        assert labels == list(range(len(labels)))
    else:
        again = iterate_batches(numbered(count), size, generator=torch.Generator().manual_seed(3), drop_last=drop_last)
        assert labels == [label for _, batch in again for label in batch.tolist()]


def test_epochs_differ_and_sizes_are_checked() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (next(iterate_batches(numbered(50), 50, generator=generator))[1] for _ in range(2))
    assert not torch.equal(first, second)
    with pytest.raises(ValueError, match="at least 1"):
        next(iterate_batches(numbered(3), 0))


def test_to_float() -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    values = to_float(images)
    assert values.dtype == torch.float32 and float(values.min()) == 0 and float(values.max()) == 1
    assert torch.equal((values * 255).round().to(torch.uint8), images)
    assert images.dtype == torch.uint8
