"""The typed configuration of a retraining. Free of torch, so that the command line can show its help at once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from nas_osr.configuration import (
    Numbers,
    check_choice,
    check_not_negative,
    check_positive,
    check_switches,
    parse_range,
)
from nas_osr.data.protocols import Protocol
from nas_osr.data.rehearsal import rehearse
from nas_osr.errors import UserError
from nas_osr.plugins import check_name
from nas_osr.requests import RunRequest
from nas_osr.retrain.networks import check_network
from nas_osr.search_spaces.presets import get_preset
from nas_osr.search_spaces.stems import STEMS

DEFAULT_ARCHITECTURE = "published"


@dataclass
class RetrainRequest(RunRequest):
    """Train a found architecture, or a baseline network, from scratch on all known classes, and evaluate it.

    Args:
        architecture: run folder of a search, architecture.json, published, random:SEED, or the value itself.
        network: a baseline network instead of an architecture: cac, dhrnet, resnet18, resnet34, resnet50, vgg13.
        splits: class splits, such as 0, 0-4 or 0,2; each is a sub-folder of `out`.
        seeds: seeds, such as 0 or 0-2; each split is trained once a seed.
        channels: channels C at 1/4 resolution; 0 is the architecture's own width.
        stem: another stem than the architecture's: strided, pooled or a dotted path.
        recipe: optimiser, schedule and augmentation: fast, paper, cac or adam.
        recipe_config: settings of the recipe, for example --recipe_config.learning_rate 0.1.
        pseudo_unknown: rehearse: these known labels (0 to N-1) play the unknown and training images the test, to choose
            settings by; no test image is opened.
        bootstrap: resamples for the confidence intervals of the metrics.
    """

    architecture: Any = DEFAULT_ARCHITECTURE
    network: str | None = None
    out: str = "runs/retrain"
    splits: Numbers = "0"
    seeds: Numbers = "0"
    channels: int | None = None
    stem: str | None = None
    recipe: str | None = None
    recipe_config: dict[str, Any] = field(default_factory=dict)
    pseudo_unknown: list[int] | None = None
    bootstrap: int = 1000

    def resolved(self) -> RetrainRequest:
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
        check_not_negative(filled, "bootstrap", "checkpoint_minutes")
        check_choice(filled, "resume", ("no", "auto"))
        check_switches(filled)
        if self.network is not None:
            check_network(self.network)
            if self.architecture not in (DEFAULT_ARCHITECTURE, None):
                raise UserError("architecture and network are both given: leave one of them out")
            if self.channels:
                raise UserError(f"channels is the width of an architecture: network {self.network} has its own")
            if self.stem is not None:
                raise UserError(f"stem is a part of an architecture: network {self.network} has its own")
        if self.stem is not None:
            check_name("stem", self.stem, STEMS, "stem: ")
        parse_range("splits", self.splits)
        parse_range("seeds", self.seeds)
        return filled

    def protocol_of(self, split: int) -> Protocol:
        """What is retrained on this split: its protocol, or the rehearsal of it. Raises UserError."""
        protocol = self.published_protocol(split)
        return protocol if self.pseudo_unknown is None else rehearse(protocol, self.pseudo_unknown)


@dataclass
class EvaluateRequest:
    """Evaluate a retrained network again from its saved model: rule, threshold and every figure are computed anew.

    Results under another unknown source or rule, or with --mirrored, are written beside the run's own, as
    metrics-LABEL.json.

    Args:
        run: folder of one retraining, or of several (`split-0` ...).
        unknown: a source whose test images all play the unknown, instead of the protocol's.
        rule: another scoring rule than the run's; several as mls,energy; all is every shipped one that can be used.
        rule_config: settings of the rule, where it is one.
        mirrored: average the outputs for each image and its mirror image; twice the time.
        data_dir: folder of the images, where it is not the run's.
        device: auto, cpu, cuda or cuda:INDEX.
        precision: auto, 32-true or bf16-mixed.
        threads: CPU threads; 0 leaves torch's choice.
        bootstrap: resamples for the confidence intervals of the metrics; 0 leaves them out.
        plugin: modules with your own classes that the run was made with; a run folder by itself imports nothing.
        json: print the result as one JSON object.
    """

    run: str
    unknown: str | None = None
    rule: str | None = None
    rule_config: dict[str, Any] = field(default_factory=dict)
    mirrored: bool = False
    data_dir: str | None = None
    device: str = "auto"
    precision: str = "auto"
    threads: int = 0
    bootstrap: int = 1000
    plugin: list[str] = field(default_factory=list)
    json: bool = False
