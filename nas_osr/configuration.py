"""What the configurations of searching and retraining share. Free of torch."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from nas_osr.data.protocols import Protocol, make_protocol
from nas_osr.errors import UserError
from nas_osr.files import show

# Where a run goes and how it talks: no part of what is computed, so not written into config.yaml.
MAX_NUMBERS = 1_000_000  # of a range: it is written out
NOT_RECORDED = frozenset({"out", "resume", "overwrite", "dry_run", "json", "quiet", "checkpoint_minutes"})


@dataclass
class CommonConfig:
    """Options of every run.

    Args:
        out: folder of the run.
        protocol: which data set and which classes are known; `nas-osr data list` shows them.
        family: family of the published splits: arpl, neal or nas_osr.
        known: explicit known classes (ids, or lists of ids to merge) instead of a published split.
        class_seed: draw the known classes from this seed instead.
        data_dir: folder of the images; the environment variable NAS_OSR_DATA when not given.
        limit_per_class: use only so many images of each class.
        outliers: source whose training images serve objectives that learn from given unknown images.
        objective: training loss, by name or dotted path.
        objective_config: coefficients of the objective, for example --objective_config.temperature 6.
        rule: scoring rule; the objective's default when not given.
        rule_config: settings of the rule.
        plugin: modules with your own classes, for an architecture that names one of them.
        preset: paper, small or tiny: fixes what is left open.
        epochs: passes over the training images (searching: over the weight half).
        batch_size: images a step, of all processes together where torchrun starts several.
        device: auto, cpu, cuda or cuda:INDEX.
        precision: auto, 32-true or bf16-mixed.
        threads: CPU threads of a process; 0 leaves torch's choice.
        deterministic: use algorithms on the GPU that give the same bits every time, where there are slower ones.
        checkpoint_minutes: save so often inside an epoch, besides at its end; 0 is at the end only.
        checkpointing: compute the inside of cells again in the backward pass instead of keeping it: saves memory.
        compile: compile the encoder with torch.compile; the first steps take minutes.
        resume: auto continues what is in `out`; no starts afresh.
        overwrite: replace finished runs in `out`.
        dry_run: print what would run, with an estimate of its time and memory, and stop.
        json: print the result as one JSON object.
        quiet: print no progress.
    """

    out: str = "runs/new"
    protocol: str = "cifar10"
    family: str = "arpl"
    known: list[Any] | None = None
    class_seed: int | None = None
    data_dir: str | None = None
    limit_per_class: int | None = None
    outliers: str | None = None
    objective: str = "vae_contrastive"
    objective_config: dict[str, Any] = field(default_factory=dict)
    rule: str | None = None
    rule_config: dict[str, Any] = field(default_factory=dict)
    plugin: list[str] = field(default_factory=list)
    preset: str = "small"
    epochs: int | None = None
    batch_size: int | None = None
    device: str = "auto"
    precision: str = "auto"
    threads: int = 0
    deterministic: bool = False
    checkpoint_minutes: float = 10.0
    checkpointing: bool = False
    compile: bool = False
    resume: str = "no"
    overwrite: bool = False
    dry_run: bool = False
    json: bool = False
    quiet: bool = False

    def recorded(self) -> dict[str, Any]:
        """What config.yaml holds: the fields that decide the result, as plain values."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name not in NOT_RECORDED}


def check_positive(config: Any, *names: str) -> None:
    """UserError unless each of these fields is greater than zero."""
    for name in names:
        if not getattr(config, name) > 0:
            raise UserError(f"{name} must be greater than 0, got {getattr(config, name)}")


def check_not_negative(config: Any, *names: str) -> None:
    """UserError unless each of these fields is a number from zero."""
    for name in names:
        if not getattr(config, name) >= 0:
            raise UserError(f"{name} must not be negative, got {getattr(config, name)}")


def check_choice(config: Any, name: str, choices: tuple[str, ...]) -> None:
    """UserError unless the field is one of the choices."""
    if getattr(config, name) not in choices:
        raise UserError(f"{name} must be one of {', '.join(choices)}, got {getattr(config, name)!r}")


def check_switches(config: Any) -> None:
    """UserError when checkpointing and compile are both asked for: torch cannot compile the second pass of a cell."""
    if config.checkpointing and config.compile:
        raise UserError("checkpointing and compile exclude each other: leave one of them out")


def parse_range(name: str, text: Any) -> list[int]:
    """Whole numbers from text such as `0`, `0-4` or `0,2,5-7`; UserError when it is not of that form."""
    numbers: list[int] = []
    for part in str(text).split(","):
        match = re.fullmatch(r"\s*(\d{1,6})(?:-(\d{1,6}))?\s*", part)
        if match is None or (match[2] is not None and int(match[2]) < int(match[1])):
            raise UserError(f"{name} must look like 0, 0-4 or 0,2,5-7, got {show(text)}")
        numbers += range(int(match[1]), int(match[2] or match[1]) + 1)
        if len(numbers) > MAX_NUMBERS:
            raise UserError(f"{name} names more than {MAX_NUMBERS} numbers")
    if len(set(numbers)) < len(numbers):
        raise UserError(f"{name} names a number twice: {show(text)}")
    return numbers


def check_types(config: Any, where: str) -> None:
    """UserError, naming the first, unless every field of a dataclass has the type that it is annotated with."""
    hints = get_type_hints(type(config))
    for item in fields(config):
        if not has_type(getattr(config, item.name), hints[item.name]):
            raise UserError(f"{where}: {item.name} must not be {show(getattr(config, item.name))}")


def has_type(value: Any, hint: Any) -> bool:
    """Whether a plain value is of a type: Any, a plain type, a list, a dict with text for keys, or a union of these."""
    arguments = get_args(hint)
    if hint is Any:
        return True
    if get_origin(hint) in (Union, UnionType):
        return any(has_type(value, part) for part in arguments)
    if get_origin(hint) is list:
        return isinstance(value, list) and all(has_type(item, arguments[0]) for item in value)
    if get_origin(hint) is dict:
        return isinstance(value, dict) and all(isinstance(key, str) for key in value)
    return type(value) is (NoneType if hint is None else hint)


def config_protocol(config: Any, split: int) -> Protocol:
    """The protocol that a configuration names, on this split. Raises UserError."""
    return make_protocol(
        config.protocol,
        split,
        family=config.family,
        known=config.known,
        seed=config.class_seed,
        data_dir=config_data_dir(config),
    )


def config_data_dir(config: Any) -> Path | None:
    """The folder of images that a configuration names, or None for the environment's."""
    return None if config.data_dir is None else Path(config.data_dir)
