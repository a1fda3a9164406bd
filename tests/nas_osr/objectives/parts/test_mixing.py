"""Which share is mixed, and the choice of the saliency's maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from scipy import stats

from nas_osr.errors import UserError
from nas_osr.objectives.parts.mixing import MixConfig, Mixing
from nas_osr.objectives.parts.saliency_maps import choose_scales
from nas_osr.outputs import Features, FeatureShapes

SHAPES = FeatureShapes({2: (64, 2, 2)}, {-1: (8, 16, 16), 0: (16, 8, 8), 1: (32, 4, 4), 2: (64, 2, 2)})


def mixing(**settings: Any) -> Mixing:
    return Mixing(MixConfig(**settings), SHAPES, "here")


@pytest.mark.parametrize("alpha", [0.3, 1.0, 4.0])
def test_the_mates_share_is_the_smaller_part_of_a_beta_draw(alpha: float) -> None:
    torch.manual_seed(0)
    drawn = mixing(mix="mixup", mix_alpha=alpha)
    shares = [drawn.draw_gamma() ** 2 for _ in range(600)]
    folded = stats.beta(alpha, alpha)
    assert max(shares) <= 0.5 + 1e-9
    assert stats.kstest(shares, lambda x: 2 * folded.cdf(x)).pvalue > 0.01


def test_without_alpha_the_share_is_that_of_gradmix() -> None:
    for kind in ("mixup", "cutmix", "gradmix"):
        torch.manual_seed(0)
        gammas = [mixing(mix=kind).draw_gamma() for _ in range(50)]
        torch.manual_seed(0)
        assert gammas == pytest.approx([0.1 + 0.4 * float(torch.rand(())) for _ in range(50)])


def test_alpha_moves_what_cutmix_and_mixup_return() -> None:
    images, nothing = torch.rand(400, 3, 32, 32), Features({}, {})
    for kind in ("mixup", "cutmix"):
        torch.manual_seed(3)
        mixed, share = mixing(mix=kind, mix_alpha=1.0).mix(images, torch.arange(400).roll(1), nothing, torch.zeros(()))
        torch.manual_seed(3)
        drawn = float(torch.distributions.Beta(1.0, 1.0).sample())
        assert share == pytest.approx(min(drawn, 1 - drawn), abs=0.05)
        changed = (mixed != images).float().mean().item()
        assert changed == pytest.approx(share if kind == "cutmix" else 1.0, abs=0.01)


def test_the_last_map_with_enough_positions_is_chosen() -> None:
    assert choose_scales(SHAPES, (), "x") == (1,)
    assert choose_scales(SHAPES, (-1, 1), "x") == (-1, 1)
    assert choose_scales(FeatureShapes({2: (8, 4, 4)}, {-1: (4, 16, 16), 1: (8, 4, 4)}), (), "x") == (2,)
    assert choose_scales(FeatureShapes({2: (8, 1, 1)}, {0: (8, 8, 8), 1: (8, 4, 2)}), (), "x") == (0,)
    with pytest.raises(UserError, match="^x: the map at scale 2 has 2x2 positions"):
        choose_scales(SHAPES, (1, 2), "x")


def test_settings_of_the_two_objectives_are_the_same_ones() -> None:
    @dataclass(frozen=True)
    class Own(MixConfig):
        mix: str = "none"

    assert Own().mix == "none" and Own().gamma == MixConfig().gamma
    with pytest.raises(UserError, match="mix must be one of gradmix, cutmix, mixup, none, got 'paste'"):
        Own(mix="paste")
