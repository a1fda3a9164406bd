"""Neural architecture search for open-set image recognition.

The public names below are imported when they are first used, so that `import nas_osr` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers: the names of _PUBLIC
    from nas_osr.api import evaluate as evaluate
    from nas_osr.api import fit as fit
    from nas_osr.api import search as search
    from nas_osr.api import train as train
    from nas_osr.data.dataset import load_data as load_data
    from nas_osr.data.protocols import Protocol as Protocol
    from nas_osr.data.protocols import make_protocol as make_protocol
    from nas_osr.deploy.estimator import OpenSetClassifier as OpenSetClassifier
    from nas_osr.deploy.predictor import OpenSetModel as OpenSetModel
    from nas_osr.deploy.predictor import load as load
    from nas_osr.errors import UserError as UserError
    from nas_osr.evaluation.score_file import score_arrays as score_arrays
    from nas_osr.objectives import make_objective as make_objective
    from nas_osr.objectives.base import Objective as Objective
    from nas_osr.outputs import Outputs as Outputs
    from nas_osr.retrain.retrain_request import RetrainRequest as RetrainRequest
    from nas_osr.runs.run_folder import RunFolder as RunFolder
    from nas_osr.scoring import make_rule as make_rule
    from nas_osr.scoring.base import Scores as Scores
    from nas_osr.scoring.base import ScoringRule as ScoringRule
    from nas_osr.search_spaces.architectures.architecture import Architecture as Architecture
    from nas_osr.search_spaces.architectures.architecture import Branch as Branch
    from nas_osr.search_spaces.architectures.export import export_architecture as export_architecture
    from nas_osr.search_spaces.architectures.references import load_architecture as load_architecture
    from nas_osr.strategies.search_request import SearchRequest as SearchRequest

__version__ = "0.2.0"

_PUBLIC = {
    "Architecture": "nas_osr.search_spaces.architectures.architecture",
    "Branch": "nas_osr.search_spaces.architectures.architecture",
    "Objective": "nas_osr.objectives.base",
    "OpenSetClassifier": "nas_osr.deploy.estimator",
    "OpenSetModel": "nas_osr.deploy.predictor",
    "Outputs": "nas_osr.outputs",
    "Protocol": "nas_osr.data.protocols",
    "RetrainRequest": "nas_osr.retrain.retrain_request",
    "RunFolder": "nas_osr.runs.run_folder",
    "Scores": "nas_osr.scoring.base",
    "ScoringRule": "nas_osr.scoring.base",
    "SearchRequest": "nas_osr.strategies.search_request",
    "UserError": "nas_osr.errors",
    "evaluate": "nas_osr.api",
    "export_architecture": "nas_osr.search_spaces.architectures.export",
    "fit": "nas_osr.api",
    "load": "nas_osr.deploy.predictor",
    "load_architecture": "nas_osr.search_spaces.architectures.references",
    "load_data": "nas_osr.data.dataset",
    "make_objective": "nas_osr.objectives",
    "make_protocol": "nas_osr.data.protocols",
    "make_rule": "nas_osr.scoring",
    "score_arrays": "nas_osr.evaluation.score_file",
    "search": "nas_osr.api",
    "train": "nas_osr.api",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
