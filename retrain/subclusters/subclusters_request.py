"""What a user asks of the choice of subclusters. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from nas_osr.requests import MachineOptions, OutputOptions
from nas_osr.retrain.retrain_request import NetworkOptions, RetrainRequest


@dataclass
class SubclustersRequest(NetworkOptions, OutputOptions, MachineOptions):
    """Choose the subclusters K_c of every known class for the objective gmvae (Cao et al.).

    Trains the objective on each class alone with every count, and compares the losses on known validation images.
    """

    out: str = "runs/subclusters"
    "folder of the run."
    counts: list[int] = field(default_factory=lambda: [1, 2, 3])
    "the numbers of subclusters to compare, such as 1,2,3."
    gain: float = 0.05
    "one more subcluster pays when it lowers the covering loss by at least this share of it."
    tolerance: float = 0.005
    "it may raise the reconstruction loss by no more than this, in nats a pixel value."
    seed: int = 0
    "of every training."
    split: int | None = None
    "the class split; the search's, or 0."
    objective_config: dict[str, Any] = field(default_factory=dict)
    "coefficients of the objective gmvae, all but subclusters."
    plugin: list[str] = field(default_factory=list)
    "modules with your own classes, for an architecture that names one of them."

    def as_retrain(self) -> RetrainRequest:
        """The retraining that one subcluster a class stands for, on all classes at once."""
        shared = {item.name for item in fields(self)} & {item.name for item in fields(RetrainRequest)}
        return RetrainRequest(
            **{name: getattr(self, name) for name in shared - {"objective_config"}},
            objective="gmvae",
            objective_config={**self.objective_config, "subclusters": 1},
            splits=None if self.split is None else str(self.split),
            seeds=str(self.seed),
        )
