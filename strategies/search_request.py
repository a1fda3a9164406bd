"""The typed configuration of a search. Free of torch, so that the command line can show its help at once."""

from __future__ import annotations

from dataclasses import dataclass, replace

from nas_osr.configuration import check_choice, check_not_negative, check_positive, check_switches
from nas_osr.errors import UserError
from nas_osr.objectives import objective_class
from nas_osr.requests import RunRequest
from nas_osr.search_spaces.presets import get_preset
from nas_osr.search_spaces.space import Space

STRATEGIES = ("pas", "darts")
STOP_RULES = ("skips", "entropy")  # the warnings of `nas_osr.strategies.bilevel.search_monitors` that may end a search


@dataclass
class SearchRequest(RunRequest):
    """Search an architecture.

    Args:
        split: which of the published class splits, from 0.
        strategy: pas (Pseudo Auxiliary Searching) or darts (its ablation: no pseudo-unknowns, last architecture).
        layers: cell layers L.
        channels: channels C at 1/4 resolution.
        operations: candidates of each cell, by name or dotted path.
        branches: scales that leave the encoder; 2 always.
        stem: how images come to 1/4 resolution: strided (the paper's), pooled (3x3 convolutions, then pooling) or a
            dotted path.
        warmup_epochs: first epochs that update weights only.
        weight_lr: learning rate of the weights (Adam).
        weight_decay: weight decay of the weights.
        weight_lr_decay: factor on the learning rate after every epoch.
        architecture_lr: learning rate of alphas and betas (Adam, betas .5 and .999).
        clip: largest gradient norm of the weights; 0 is off.
        order: which step comes first in a pair: architecture_first or weights_first (Algorithm 1 of the paper).
        pseudo_unknown: labels (0 to N-1) that play the unknown; drawn from the seed, or published, when not given.
        rule_sample: kept training images on which the rule is fitted after each epoch.
        augmentation: recipe for training images: search (crop, flip, rotation), crop_flip or none.
        stop_rule: end the search when its warning has held for three epochs: skips, entropy (of alpha) or none.
        seed: seed of everything that is random.
    """

    out: str = "runs/search"
    split: int = 0
    strategy: str = "pas"
    layers: int | None = None
    channels: int | None = None
    operations: list[str] | None = None
    branches: list[int] | None = None
    stem: str | None = None
    warmup_epochs: int | None = None
    weight_lr: float = 5e-4
    weight_decay: float = 5e-5
    weight_lr_decay: float = 0.97
    architecture_lr: float | None = None
    clip: float = 5.0
    order: str = "architecture_first"
    pseudo_unknown: list[int] | None = None
    rule_sample: int = 1000
    augmentation: str = "search"
    stop_rule: str | None = None
    seed: int = 0

    def resolved(self) -> SearchRequest:
        """A copy in which the preset has filled every open field; UserError on values out of range."""
        preset = get_preset(self.preset)
        filled = replace(
            self,
            objective_config={**preset.objective_settings.get(self.objective, {}), **self.objective_config},
            layers=preset.space.layers if self.layers is None else self.layers,
            channels=preset.space.channels if self.channels is None else self.channels,
            operations=list(self.operations or preset.space.operations),
            branches=list(self.branches or preset.space.branches),
            stem=self.stem or preset.space.stem,
            epochs=preset.epochs if self.epochs is None else self.epochs,
            warmup_epochs=preset.warmup_epochs if self.warmup_epochs is None else self.warmup_epochs,
            batch_size=preset.batch_size if self.batch_size is None else self.batch_size,
            architecture_lr=preset.architecture_lr if self.architecture_lr is None else self.architecture_lr,
            stop_rule=None if self.stop_rule == "none" else self.stop_rule,
        )
        filled.space()
        check_positive(filled, "epochs", "batch_size", "weight_lr", "architecture_lr", "rule_sample")
        check_not_negative(filled, "checkpoint_minutes")
        check_choice(filled, "order", ("architecture_first", "weights_first"))
        check_choice(filled, "resume", ("no", "auto"))
        check_switches(filled)
        if filled.stop_rule is not None:
            check_choice(filled, "stop_rule", STOP_RULES)
        assert filled.warmup_epochs is not None and filled.epochs is not None
        if not 0 <= filled.warmup_epochs < filled.epochs:
            raise UserError(
                f"warmup_epochs must lie between 0 and epochs - 1 = {filled.epochs - 1}, got {filled.warmup_epochs}"
            )
        return filled

    def space(self) -> Space:
        """The space of a resolved configuration."""
        assert self.layers is not None and self.channels is not None and self.stem is not None
        operations, branches = tuple(self.operations or ()), tuple(self.branches or ())
        return Space(self.layers, self.channels, operations, branches, self.stem)


def check_request(config: SearchRequest) -> SearchRequest:
    """The resolved configuration, with the rule named and every name known; UserError otherwise."""
    config = config.resolved()
    if config.strategy not in STRATEGIES:
        raise UserError(f"unknown strategy {config.strategy!r}: choose one of {', '.join(STRATEGIES)}")
    return replace(config, rule=config.rule or objective_class(config.objective).default_rule)
