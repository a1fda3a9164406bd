"""What a user asks of the choice of subclusters. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, Any

from nas_osr.configuration import Numbers, UserPath
from nas_osr.option_docs import NOT_NEGATIVE, POSITIVE, Range
from nas_osr.requests import MachineOptions, OutputOptions
from nas_osr.retrain.retrain_request import NetworkOptions, RetrainRequest


@dataclass
class SubclustersRequest(NetworkOptions, OutputOptions, MachineOptions):
    """Choose the subclusters K_c of every known class for the objective gmvae (Cao et al.).

    Trains the objective on each class alone with every count, and compares the losses on known validation images where
    reconstructions are equal.
    """

    out: UserPath = "runs/subclusters"
    "folder of the run."
    counts: Annotated[list[int], POSITIVE] = field(default_factory=lambda: [1, 2, 3])
    "the numbers of subclusters to compare, such as 1,2,3."
    gain: Annotated[float, Range(0, 1, above=True, below=True)] = 0.05
    "a step to more subclusters pays when it lowers the covering loss by this share of it, and the cost of naming one."
    seeds: Numbers = "0-2"
    "seeds, such as 0-2: every class is trained with each count once a seed."
    split: Annotated[int | None, NOT_NEGATIVE] = None
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
        )
