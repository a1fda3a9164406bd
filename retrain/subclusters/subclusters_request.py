"""The typed configuration of the choice of subclusters. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

from nas_osr.configuration import check_choice
from nas_osr.errors import UserError
from nas_osr.requests import NOT_RECORDED, DataOptions
from nas_osr.retrain.retrain_request import RetrainRequest


@dataclass
class SubclustersRequest(DataOptions):
    """Choose the subclusters K_c of every known class for the objective gmvae (Cao et al.).

    Trains the objective on each class alone with every count, and compares the losses on known validation images.

    Args:
        architecture: run folder of a search, architecture.json, published, or random:SEED.
        out: folder of the run.
        counts: the numbers of subclusters to compare, such as 1,2,3.
        gain: one more step is worth it when it lowers the covering loss by at least this share of it.
        tolerance: and raises the reconstruction loss by no more than this, in nats a pixel value.
        seed: of every training.
        split: the class split.
        objective_config: coefficients of the objective, all but subclusters.
        channels: channels C at 1/4 resolution; 0 is the architecture's own width.
        recipe: optimiser, schedule and augmentation: fast, paper, cac or adam.
        recipe_config: settings of the recipe, for example --recipe_config.learning_rate 0.1.
        preset: paper, small or tiny: fixes what is left open.
        epochs: passes over the training images of the class.
        batch_size: images a step.
        device: auto, cpu, cuda or cuda:INDEX.
        precision: auto, 32-true or bf16-mixed.
        threads: CPU threads; 0 leaves torch's choice.
        resume: auto continues what is in `out`; no starts afresh.
        overwrite: replace a finished run in `out`.
        json: print the result as one JSON object.
        quiet: print no progress.
    """

    architecture: Any = "published"
    out: str = "runs/subclusters"
    counts: list[int] = field(default_factory=lambda: [1, 2, 3])
    gain: float = 0.05
    tolerance: float = 0.005
    seed: int = 0
    split: int = 0
    objective_config: dict[str, Any] = field(default_factory=dict)
    channels: int | None = None
    recipe: str | None = None
    recipe_config: dict[str, Any] = field(default_factory=dict)
    preset: str = "small"
    epochs: int | None = None
    batch_size: int | None = None
    device: str = "auto"
    precision: str = "auto"
    threads: int = 0
    resume: str = "no"
    overwrite: bool = False
    json: bool = False
    quiet: bool = False

    def resolved(self) -> SubclustersRequest:
        """A copy in which the preset has filled every open field, counts ascending; UserError on bad values."""
        check_choice(self, "resume", ("no", "auto"))
        counts = sorted(set(self.counts))
        if len(counts) < 2 or len(counts) < len(self.counts) or counts[0] < 1:
            raise UserError(f"counts must be two or more different numbers from 1, such as 1,2,3; got {self.counts}")
        if not 0 < self.gain < 1:
            raise UserError(f"gain is a share between 0 and 1, got {self.gain}")
        if not self.tolerance >= 0:
            raise UserError(f"tolerance must not be negative, got {self.tolerance}")
        if "subclusters" in self.objective_config:
            raise UserError("objective_config.subclusters is what this command chooses: give --counts instead")
        filled = self.as_retrain().resolved()
        names = ("channels", "objective_config", "recipe", "epochs", "batch_size")
        return replace(self, counts=counts, **{name: getattr(filled, name) for name in names})

    def as_retrain(self) -> RetrainRequest:
        """The retraining that each count stands for, on all classes at once."""
        shared = {item.name for item in fields(self)} & {item.name for item in fields(RetrainRequest)}
        values = {name: getattr(self, name) for name in shared}
        return RetrainRequest(**values, objective="gmvae", splits=str(self.split), seeds=str(self.seed))

    def recorded(self) -> dict[str, Any]:
        """What config.yaml holds: the fields that decide the result, as plain values."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name not in NOT_RECORDED}
