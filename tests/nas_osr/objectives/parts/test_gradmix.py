"""Mixing by hand, against a loop over images, and as properties of boxes of any size at any place."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf

from nas_osr.objectives.parts.gradmix import box_size, cutmix, draw_gamma, gradmix, mixup, random_mates, salient_boxes

sides = st.integers(1, 14)
gammas = st.floats(0.01, 1.0)


def peak_at(row: int, column: int, height: int = 8, width: int = 8) -> Tensor:
    maps = torch.zeros(1, height, width)
    maps[0, row, column] = 2.0
    return maps


def test_by_hand() -> None:
    """8x8, gamma 1/4: a 2x2 box whose lower right pixel is the peak, filled with the mate's four quarters."""
    images = torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)])
    images[1, 0, :4, :4] = 5.0
    maps = torch.cat([peak_at(3, 5), peak_at(0, 7)])
    mixed, share = gradmix(images, maps, torch.tensor([1, 0]), 0.25)
    assert share == 4 / 64
    first = torch.zeros(8, 8)
    # resizing weights 8 pixels by triangles: 6/7 of a pixel's weight lie in its own half, 1/7 in the other
    first[2:4, 4:6] = 1 + 4 * torch.tensor([[36.0, 6.0], [6.0, 1.0]]) / 49
    torch.testing.assert_close(mixed[0, 0], first)
    # the corner's box is shifted inside; the black mate leaves zeros
    second = images[1, 0].clone()
    second[0:2, 6:8] = 0.0
    torch.testing.assert_close(mixed[1, 0], second)


def test_an_odd_box_has_the_peak_in_its_middle() -> None:
    images = torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)])
    mixed, share = gradmix(images, torch.cat([peak_at(4, 2)] * 2), torch.tensor([1, 0]), 3 / 8)
    expected = torch.zeros(8, 8)
    expected[3:6, 1:4] = 1.0
    torch.testing.assert_close(mixed[0, 0], expected)
    torch.testing.assert_close(mixed[1, 0], 1 - expected)
    assert share == 9 / 64


@settings(deadline=None)
@given(st.data(), sides, sides, gammas)
def test_the_area_is_exact_and_the_box_is_inside(data: st.DataObject, height: int, width: int, gamma: float) -> None:
    row, column = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    images = torch.stack([torch.zeros(3, height, width), torch.ones(3, height, width)])
    maps = torch.cat([peak_at(row, column, height, width)] * 2)
    box = box_size(gamma, height, width)
    assert 1 <= box[0] <= height and 1 <= box[1] <= width
    assert abs(box[0] - gamma * height) <= 1 and abs(box[1] - gamma * width) <= 1
    top, left = (int(edge[0]) for edge in salient_boxes(maps, box))
    assert 0 <= top <= height - box[0] and 0 <= left <= width - box[1]
    assert top <= row < top + box[0] and left <= column < left + box[1]
    # as near to the middle as the image lets it
    for start, extent, peak, side in ((top, box[0], row, height), (left, box[1], column, width)):
        off = abs(start + (extent - 1) / 2 - peak)
        assert off <= 0.5 or start in (0, side - extent)
    mates = torch.tensor([1, 0])
    for mixed, share in (gradmix(images, maps, mates, gamma), cutmix(images, mates, gamma)):
        assert share == pytest.approx(box[0] * box[1] / (height * width))
        for mixed_image, own in zip(mixed, (0.0, 1.0), strict=True):
            foreign = (mixed_image - own).abs() > 0.5
            assert int(foreign.sum()) == 3 * box[0] * box[1]
            rows, columns = foreign[0].any(1).nonzero(), foreign[0].any(0).nonzero()
            assert len(rows) == rows[-1] - rows[0] + 1 == box[0]
            assert len(columns) == columns[-1] - columns[0] + 1 == box[1]


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 6), st.sampled_from([1, 3]), sides, sides, gammas, st.integers(0, 99))
def test_gradmix_equals_a_loop(count: int, channels: int, height: int, width: int, gamma: float, seed: int) -> None:
    torch.manual_seed(seed)
    images = torch.rand(count, channels, height, width)
    maps = torch.rand(count, height * width).argsort(dim=1).view(count, height, width).float()  # no near ties
    mates = random_mates(count)
    mixed, _ = gradmix(images, maps, mates, gamma)
    h, w = box_size(gamma, height, width)
    for index in range(count):
        row, column = divmod(int(maps[index].argmax()), width)
        top = min(max((2 * row - h + 1) // 2, 0), height - h)
        left = min(max((2 * column - w + 1) // 2, 0), width - w)
        slow = images[index].clone()
        slow[:, top : top + h, left : left + w] = tvf.resize(images[mates[index]], [h, w], antialias=True)
        torch.testing.assert_close(mixed[index], slow)


def test_a_plateau_has_its_middle_as_peak() -> None:
    """A coarse map that was resized: each corner's plateau counts alike, whatever the rounding."""
    for row in range(2):
        for column in range(2):
            small = torch.zeros(1, 1, 2, 2)
            small[0, 0, row, column] = 0.3
            maps = torch.nn.functional.interpolate(small, (32, 32), mode="bilinear")[:, 0]
            top, left = salient_boxes(maps, (4, 4))
            assert (int(top), int(left)) == (1 + 24 * row, 1 + 24 * column)
    assert [int(edge) for edge in salient_boxes(torch.zeros(1, 9, 7), (3, 3))] == [3, 2]


def test_of_equal_peaks_one_is_taken_not_the_point_between() -> None:
    for first, second in (((1, 1), (1, 8)), ((0, 0), (9, 9)), ((2, 7), (8, 1))):
        maps = peak_at(*first, 10, 10) + peak_at(*second, 10, 10)
        top, left = salient_boxes(maps, (1, 1))
        assert (int(top), int(left)) in (first, second)
    # an outer one of three never wins against the one in their middle
    top, left = salient_boxes(peak_at(2, 1, 10, 10) + peak_at(2, 4, 10, 10) + peak_at(2, 8, 10, 10), (1, 1))
    assert (int(top), int(left)) == (2, 4)


def test_cutmix_takes_the_mates_pixels_from_the_same_place() -> None:
    torch.manual_seed(0)
    images = torch.rand(6, 3, 8, 8)
    mates = random_mates(6)
    mixed, share = cutmix(images, mates, 0.5)
    from_mate = (mixed == images[mates]).all(1)
    assert torch.equal(torch.where(from_mate[:, None], images[mates], images), mixed)
    assert share == 0.25 and from_mate.sum((1, 2)).tolist() == [16] * 6


def test_cutmix_boxes_are_anywhere() -> None:
    torch.manual_seed(0)
    images = torch.cat([torch.zeros(400, 1, 4, 4), torch.ones(400, 1, 4, 4)])
    mixed, _ = cutmix(images, (torch.arange(800) + 400) % 800, 0.25)
    counts = mixed[:400].sum((0, 1))
    assert counts.sum() == 400 and counts.min() > 8 and counts.max() < 45


def test_mixup_is_a_convex_combination() -> None:
    images = torch.tensor([0.0, 1.0, 0.4]).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    mixed, share = mixup(images, torch.tensor([1, 2, 0]), 0.5)
    assert share == 0.25
    torch.testing.assert_close(mixed[:, 0, 0, 0], torch.tensor([0.25, 0.75 + 0.1, 0.3]))


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(0, 1000))
def test_mates_are_others_and_everyone_is_one(count: int, seed: int) -> None:
    torch.manual_seed(seed)
    mates = random_mates(count)
    assert mates.sort().values.tolist() == list(range(count))
    assert count == 1 or not (mates == torch.arange(count)).any()


def test_all_others_are_equally_likely_mates() -> None:
    torch.manual_seed(0)
    counts = torch.bincount(torch.stack([random_mates(4)[0] for _ in range(900)]), minlength=4)
    assert counts[0] == 0 and counts[1:].min() > 240


def test_gamma_is_uniform() -> None:
    torch.manual_seed(0)
    drawn = torch.tensor([draw_gamma(0.1, 0.5) for _ in range(500)])
    assert 0.1 <= drawn.min() < 0.11 and 0.49 < drawn.max() <= 0.5 and drawn.mean() == pytest.approx(0.3, abs=0.02)
