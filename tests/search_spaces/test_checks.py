"""What is said of a user's own operation or stem that does not do what it should, before anything starts."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas_osr.errors import UserError
from nas_osr.search_spaces.architectures.sampling import sample_architecture
from nas_osr.search_spaces.checks import check_architecture, check_space
from nas_osr.search_spaces.space import Space

SHAPE = (1, 32, 32)


class Good(nn.Conv2d):
    """An operation as it should be."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__(channels_in, channels_out, 3, stride, 1)


class OneStride(nn.Conv2d):
    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__(channels_in, channels_out, 3, 1, 1)


class NoStride(nn.Module):
    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()


class Wide(nn.Conv2d):
    """Too large a window for the smallest maps."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__(channels_in, channels_out, 5, stride, 2, padding_mode="reflect")


class InPlace(nn.Sequential):
    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__(nn.ReLU(inplace=True), Good(channels_in, channels_out, stride))


class Pair(Good):
    def forward(self, maps: Tensor) -> Any:
        return maps, super().forward(maps)


class Plain:
    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        pass


class GoodStem(nn.Module):
    def __init__(self, image_channels: int, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(image_channels, 5, 2, 2)
        self.second = nn.Conv2d(5, channels, 2, 2)

    def forward(self, images: Tensor) -> Any:
        first = self.first(images)
        return first, self.second(first)


class OneMap(GoodStem):
    def forward(self, images: Tensor) -> Any:
        return self.second(self.first(images))


@pytest.fixture(autouse=True)
def module(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = ModuleType("mine")
    for value in (Good, OneStride, NoStride, Wide, InPlace, Pair, Plain, GoodStem, OneMap, nn.functional.relu):
        setattr(mine, value.__name__, value)
    monkeypatch.setitem(sys.modules, "mine", mine)


def space(operation: str = "mine.Good", stem: str = "mine.GoodStem") -> Space:
    return Space(layers=3, channels=16, operations=("skip", operation), stem=stem)


def test_what_is_right_passes_and_leaves_no_trace() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    check_space(space(), SHAPE)
    check_architecture(sample_architecture(space(), 0), SHAPE)
    assert torch.equal(torch.get_rng_state(), before)


CONTRACT = "it is built as {}(channels_in, channels_out, stride) and divides the sides of a map by the stride"
STEM = "it is built as {}(image_channels, channels) and returns maps at 1/2 and, with `channels`, at 1/4 resolution"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            {"operation": "mine.OneStride"},
            "operation 'mine.OneStride': OneStride(16, 32, 2) on maps [2, 16, 8, 8] gives [2, 32, 8, 8], not "
            "[2, 32, 4, 4]: " + CONTRACT.format("OneStride"),
        ),
        (
            {"operation": "mine.NoStride"},
            "3 positional arguments but 4 were given; " + CONTRACT.format("NoStride"),
        ),
        ({"operation": "mine.Wide"}, "Wide(64, 64, 1) on maps [2, 64, 2, 2]: RuntimeError"),
        ({"operation": "mine.InPlace"}, "changes its input, which others read: its first layer must not work in place"),
        ({"operation": "mine.Pair"}, "gives a tuple, not [2, 16, 8, 8]"),
        ({"operation": "mine.Plain"}, "mine has no class Plain derived from Module"),
        ({"operation": "mine.relu"}, "mine has no class relu derived from Module"),
        ({"operation": "mine.Absent"}, "mine has no class Absent derived from Module"),
        ({"operation": "absent.Mine"}, "plug-in absent: there is no module absent on the Python path"),
        (
            {"stem": "mine.OneMap"},
            "stem 'mine.OneMap': OneMap(1, 16) on maps [2, 1, 32, 32] gives [2, 16, 8, 8], not [2, any, 16, 16] and "
            "[2, 16, 8, 8]: " + STEM.format("OneMap"),
        ),
        ({"stem": "mine.Good"}, "missing 1 required positional argument: 'stride'; " + STEM.format("Good")),
    ],
)
def test_what_is_wrong_is_said_in_one_line(names: dict[str, str], message: str) -> None:
    with pytest.raises(UserError) as refused:
        check_space(space(**names), SHAPE)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_an_architecture_is_checked_for_what_it_uses_and_imports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(8):
        architecture = sample_architecture(space("mine.OneStride"), seed)
        if "mine.OneStride" in architecture.branches[2].operations:
            with pytest.raises(UserError, match="OneStride"):
                check_architecture(architecture, SHAPE)
        else:
            check_architecture(architecture, SHAPE)
    monkeypatch.delitem(sys.modules, "mine")
    with pytest.raises(UserError, match="stem 'mine.GoodStem' is a plug-in that is not loaded: add --plugin mine"):
        check_architecture(architecture, SHAPE)


def test_images_must_fit() -> None:
    with pytest.raises(UserError, match="multiples of 16, got 28x28"):
        check_space(space(), (1, 28, 28))
