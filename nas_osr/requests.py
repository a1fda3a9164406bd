"""What a user asks of a run: small groups of options, of which each command's request is made. Free of torch.

A request inherits the groups that it needs, so that an option is described once. `recorded` is what config.yaml holds.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from nas_osr.data.protocols import Protocol, make_protocol

# Where a run goes and how it talks: no part of what is computed, so not written into config.yaml.
NOT_RECORDED = frozenset({"out", "resume", "overwrite", "dry_run", "json", "quiet", "checkpoint_minutes"})


@dataclass
class DataOptions:
    """Which images, and which of their classes are known.

    Args:
        protocol: which data set and which classes are known; `nas-osr data list` shows them.
        family: family of the published splits: arpl, neal or nas_osr.
        known: explicit known classes (ids, or lists of ids to merge) instead of a published split.
        class_seed: draw the known classes from this seed instead.
        data_dir: folder of the images; the environment variable NAS_OSR_DATA when not given.
        limit_per_class: use only so many images of each class.
    """

    protocol: str = "cifar10"
    family: str = "arpl"
    known: list[Any] | None = None
    class_seed: int | None = None
    data_dir: str | None = None
    limit_per_class: int | None = None

    def published_protocol(self, split: int) -> Protocol:
        """The protocol that is named, on this split. Raises UserError."""
        return make_protocol(
            self.protocol,
            split,
            family=self.family,
            known=self.known,
            seed=self.class_seed,
            data_dir=self.data_folder,
        )

    @property
    def data_folder(self) -> Path | None:
        """The folder of images that is named, or None for the environment's."""
        return None if self.data_dir is None else Path(self.data_dir)


@dataclass
class ObjectiveOptions:
    """What is learned, and how it is judged.

    Args:
        objective: training loss, by name or dotted path.
        objective_config: coefficients of the objective, for example --objective_config.temperature 6.
        rule: scoring rule; the objective's default when not given.
        rule_config: settings of the rule.
        outliers: source whose training images serve objectives that learn from given unknown images.
        plugin: modules with your own classes, for an architecture that names one of them.
    """

    objective: str = "vae_contrastive"
    objective_config: dict[str, Any] = field(default_factory=dict)
    rule: str | None = None
    rule_config: dict[str, Any] = field(default_factory=dict)
    outliers: str | None = None
    plugin: list[str] = field(default_factory=list)


@dataclass
class ScheduleOptions:
    """How long, and in which steps.

    Args:
        preset: paper, small or tiny: fixes what is left open.
        epochs: passes over the training images (searching: over the weight half).
        batch_size: images a step, of all processes together where torchrun starts several.
    """

    preset: str = "small"
    epochs: int | None = None
    batch_size: int | None = None


@dataclass
class DeviceOptions:
    """Where it is computed.

    Args:
        device: auto, cpu, cuda or cuda:INDEX.
        precision: auto, 32-true or bf16-mixed.
        threads: CPU threads of a process; 0 leaves torch's choice.
    """

    device: str = "auto"
    precision: str = "auto"
    threads: int = 0


@dataclass
class MachineOptions(DeviceOptions):
    """Where it is computed, and how.

    Args:
        deterministic: use algorithms on the GPU that give the same bits every time, where there are slower ones.
        checkpointing: compute the inside of cells again in the backward pass instead of keeping it: saves memory.
        compile: compile the encoder with torch.compile; the first steps take minutes.
    """

    deterministic: bool = False
    checkpointing: bool = False
    compile: bool = False


@dataclass
class OutputOptions:
    """Where a run goes, and how it talks.

    Args:
        out: folder of the run.
        checkpoint_minutes: save so often inside an epoch, besides at its end; 0 is at the end only.
        resume: auto continues what is in `out`; no starts afresh.
        overwrite: replace finished runs in `out`.
        dry_run: print what would run, with an estimate of its time and memory, and stop.
        json: print the result as one JSON object.
        quiet: print no progress.
    """

    out: str = "runs/new"
    checkpoint_minutes: float = 10.0
    resume: str = "no"
    overwrite: bool = False
    dry_run: bool = False
    json: bool = False
    quiet: bool = False


@dataclass
class RunRequest(OutputOptions, MachineOptions, ScheduleOptions, ObjectiveOptions, DataOptions):
    """Options of every run."""

    def recorded(self) -> dict[str, Any]:
        """What config.yaml holds: the fields that decide the result, as plain values."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name not in NOT_RECORDED}
