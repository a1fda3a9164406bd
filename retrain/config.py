"""The typed configuration of a retraining. Free of torch, so that the command line can show its help at once."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

from nas_osr.configuration import check_choice, check_positive, recorded_fields
from nas_osr.errors import UserError
from search_spaces.presets import get_preset


@dataclass
class RetrainConfig:
    """Train a found architecture from scratch on all known classes of a protocol, and evaluate it.

    Args:
        architecture: run folder of a search, architecture.json, published, random:SEED, or the value itself.
        out: folder of the run; one sub-folder for each split (and seed).
        protocol: which data set and which classes are known; `nas-osr data list` shows them.
        splits: class splits, such as 0, 0-4 or 0,2.
        seeds: seeds, such as 0 or 0-2; each split is trained once a seed.
        family: family of the published splits: arpl, neal or nas_osr.
        known: explicit known classes (ids, or lists of ids to merge) instead of a published split.
        class_seed: draw the known classes from this seed instead.
        data_dir: folder of the images; the environment variable NAS_OSR_DATA when not given.
        limit_per_class: use only so many training images of each class.
        objective: training loss, by name or dotted path.
        objective_config: coefficients of the objective, for example --objective_config.temperature 6.
        rule: scoring rule; the objective's default when not given.
        rule_config: settings of the rule.
        preset: paper, small or tiny: fixes what is left open below.
        channels: channels C at 1/4 resolution; 0 is the architecture's own width.
        recipe: optimiser and schedule: paper or fast.
        recipe_config: settings of the recipe, for example --recipe_config.learning_rate 0.1.
        epochs: passes over the training images.
        batch_size: images a step.
        device: auto, cpu, cuda or cuda:INDEX.
        precision: auto, 32-true or bf16-mixed.
        threads: CPU threads; 0 leaves torch's choice.
        bootstrap: resamples for the confidence intervals of the metrics.
        resume: auto continues what is in `out`; no starts afresh.
        overwrite: replace finished runs in `out`.
        dry_run: print what would run and stop.
        json: print the result as one JSON object.
        quiet: print no progress.
    """

    architecture: Any = "published"
    out: str = "runs/retrain"
    protocol: str = "cifar10"
    splits: str = "0"
    seeds: str = "0"
    family: str = "arpl"
    known: list[Any] | None = None
    class_seed: int | None = None
    data_dir: str | None = None
    limit_per_class: int | None = None
    objective: str = "vae_contrastive"
    objective_config: dict[str, Any] = field(default_factory=dict)
    rule: str | None = None
    rule_config: dict[str, Any] = field(default_factory=dict)
    preset: str = "small"
    channels: int | None = None
    recipe: str | None = None
    recipe_config: dict[str, Any] = field(default_factory=dict)
    epochs: int | None = None
    batch_size: int | None = None
    device: str = "auto"
    precision: str = "auto"
    threads: int = 0
    bootstrap: int = 1000
    resume: str = "no"
    overwrite: bool = False
    dry_run: bool = False
    json: bool = False
    quiet: bool = False

    def resolved(self) -> RetrainConfig:
        """A copy in which the preset has filled every open field; UserError on values out of range."""
        preset = get_preset(self.preset)
        filled = replace(
            self,
            recipe=self.recipe or preset.recipe,
            channels=preset.retrain_channels if self.channels is None else self.channels,
            objective_config={**preset.objective_settings.get(self.objective, {}), **self.objective_config},
            epochs=preset.retrain_epochs if self.epochs is None else self.epochs,
            batch_size=preset.retrain_batch_size if self.batch_size is None else self.batch_size,
        )
        check_positive(filled, "epochs", "batch_size")
        check_choice(filled, "resume", ("no", "auto"))
        if self.bootstrap < 0:
            raise UserError(f"bootstrap must not be negative, got {self.bootstrap}")
        parse_range("splits", self.splits)
        parse_range("seeds", self.seeds)
        return filled

    def recorded(self) -> dict[str, Any]:
        """What config.yaml holds."""
        return recorded_fields(self)


def parse_range(name: str, text: str) -> list[int]:
    """Whole numbers from text such as `0`, `0-4` or `0,2,5-7`; UserError when it is not of that form."""
    numbers: list[int] = []
    for part in str(text).split(","):
        match = re.fullmatch(r"\s*(\d{1,6})(?:-(\d{1,6}))?\s*", part)
        if match is None or (match[2] is not None and int(match[2]) < int(match[1])):
            raise UserError(f"{name} must look like 0, 0-4 or 0,2,5-7, got {text!r}")
        numbers += range(int(match[1]), int(match[2] or match[1]) + 1)
    if len(set(numbers)) < len(numbers):
        raise UserError(f"{name} names a number twice: {text!r}")
    return numbers
