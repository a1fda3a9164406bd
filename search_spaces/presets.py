"""Presets: a search space's size together with the length of its schedules. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nas_osr.errors import UserError, suggest
from nas_osr.search_spaces.space import Space


@dataclass(frozen=True)
class Preset:
    """A space with the schedules that suit it; the defaults are the paper's.

    Attributes:
        space: the space that is searched.
        epochs, batch_size: of a search; a strategy may have other epochs, and has options of its own.
        retrain_channels: width C of a retrained network, 0 for the width that was searched.
        retrain_epochs, retrain_batch_size, recipe: of a retraining; an epoch is a pass over all training images.
        bf16_on_cpu: whether precision auto is bf16 on a CPU that has it; networks this narrow are slower in it.
        objective_settings: coefficients by objective that keep the cost in proportion: decoders and generators that
            cost no more than the encoders beside them.
    """

    space: Space
    epochs: int = 60
    batch_size: int = 64
    retrain_channels: int = 0
    retrain_epochs: int = 300
    retrain_batch_size: int = 64
    recipe: str = "paper"
    bf16_on_cpu: bool = True
    objective_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


PRESETS: dict[str, Preset] = {
    "paper": Preset(Space()),
    # two CPU cores and an hour for a search and a retraining on CIFAR-10
    "small": Preset(
        space=Space(channels=32),
        epochs=20,
        batch_size=128,
        retrain_channels=64,
        retrain_epochs=20,
        retrain_batch_size=128,
        recipe="fast",
        objective_settings={
            "vae_contrastive": {"decoder_channels": 64},
            "gmvae": {"decoder_channels": 64},
            "confidence": {"gan_width": 32},
        },
    ),
    # seconds to a minute: tests and first steps
    "tiny": Preset(
        space=Space(layers=4, channels=16),
        epochs=30,
        batch_size=32,
        retrain_epochs=30,
        recipe="fast",
        bf16_on_cpu=False,
        objective_settings={"confidence": {"gan_width": 16}},
    ),
}


def get_preset(name: str) -> Preset:
    """The preset of this name; UserError when there is none."""
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}: choose one of {', '.join(PRESETS)}{suggest(name, PRESETS)}")
    return PRESETS[name]
