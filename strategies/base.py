"""What a strategy is: a way to find an architecture in a space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from nas_osr.data.dataset import OpenSetData
from nas_osr.objectives.base import Objective
from nas_osr.outputs import FeatureShapes
from nas_osr.runs.recorder import Recorder
from nas_osr.scoring.base import ScoringRule
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.space import Space

ObjectiveFactory = Callable[[FeatureShapes, int], Objective]  # shapes of the encoder's maps, number of classes
RuleFactory = Callable[[], ScoringRule]


@dataclass(frozen=True)
class SearchResult:
    """The found architecture, and one record an epoch (or trial)."""

    architecture: Architecture
    history: list[dict[str, Any]]


class Strategy(Protocol):
    """A search strategy."""

    def check(self, data: OpenSetData) -> None:
        """UserError when this cannot be searched on these data; called before anything is written."""

    def search(
        self, space: Space, objective: ObjectiveFactory, rule: RuleFactory, data: OpenSetData, recorder: Recorder
    ) -> SearchResult:
        """Find an architecture, seeing known classes only."""
