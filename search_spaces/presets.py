"""Presets: a search space's size together with the length of its schedules. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nas_osr.errors import UserError, suggest
from nas_osr.search_spaces.space import Space
from nas_osr.search_spaces.spaces import SPACES, read_space


@dataclass(frozen=True)
class Preset:
    """A space with the schedules that suit it; the defaults are the paper's.

    Attributes:
        space: the space `paper` at this size.
        space_sizes: by another space's name, what is not of this size there.
        epochs, batch_size: of a search; a strategy may have other epochs, and has options of its own.
        retrain_channels: width C of a retrained network, 0 for the width that was searched.
        retrain_epochs, retrain_batch_size, recipe: of a retraining; an epoch is a pass over all training images.
        objective: what is learned.
        bf16_on_cpu: whether precision auto is bf16 on a CPU that has it; networks this narrow are slower in it.
        objective_settings: coefficients by objective that keep the cost in proportion: decoders and generators that
            cost no more than the encoders beside them.
    """

    space: Space
    space_sizes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    epochs: int = 60
    batch_size: int = 64
    retrain_channels: int = 0
    retrain_epochs: int = 300
    retrain_batch_size: int = 64
    recipe: str = "paper"
    objective: str = "vae_contrastive"
    bf16_on_cpu: bool = True
    objective_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


PRESETS: dict[str, Preset] = {
    "paper": Preset(Space()),
    # two CPU cores and an hour for a search and a retraining on CIFAR-10
    "small": Preset(
        space=Space(channels=32, stem="pooled"),
        space_sizes={"wide": {"layers": 4}},  # a step costs what one of 6 layers at half the channels does
        epochs=20,
        batch_size=128,
        retrain_channels=64,
        retrain_epochs=20,
        retrain_batch_size=128,
        recipe="strong",
        objective="cross_entropy",
        objective_settings={
            "vae_contrastive": {"decoder_channels": 64},
            "gmvae": {"decoder_channels": 64},
            "confidence": {"gan_width": 32},
            "arpl": {"gan_width": 32},
        },
    ),
    # seconds to a minute: tests and first steps
    "tiny": Preset(
        space=Space(layers=4, channels=16),
        space_sizes={"wide": {"channels": 8}},
        epochs=30,
        batch_size=32,
        retrain_epochs=30,
        recipe="fast",
        bf16_on_cpu=False,
        objective_settings={"confidence": {"gan_width": 16}, "arpl": {"gan_width": 16}},
    ),
}


def space_of(name: str | None, preset: str) -> Space:
    """The space of this name or dotted path (None is `paper`), at the preset's size, as a plain value.

    A space of a user's own has the preset's layers and channels where its class does not say others. Raises UserError.
    """
    usual = get_preset(preset)
    if name is None or name == "paper":
        return usual.space
    said = read_space(name)
    sizes = {"layers": usual.space.layers, "channels": usual.space.channels, **usual.space_sizes.get(name, {})}
    try:
        return Space(**{**sizes, **said})
    except UserError as error:
        raise error if name in SPACES else UserError(f"space {name}: {error}") from None


def preset_objective(preset: str, name: str | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """`objective` and `objective_config` of a request: the preset's, but for what is given.

    Args:
        name: the objective that is given, if one is.
        settings: the coefficients that are.
    """
    usual = get_preset(preset)
    name = usual.objective if name is None else name
    return {"objective": name, "objective_config": {**usual.objective_settings.get(name, {}), **settings}}


def get_preset(name: str) -> Preset:
    """The preset of this name; UserError when there is none."""
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}: choose one of {', '.join(PRESETS)}{suggest(name, PRESETS)}")
    return PRESETS[name]
