"""Neural architecture search for open-set image recognition.

The public names below are imported when they are first used, so that `import nas_osr` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Architecture": "nas_osr.search_spaces.architectures.architecture",
    "Branch": "nas_osr.search_spaces.architectures.architecture",
    "Objective": "nas_osr.objectives.base",
    "Outputs": "nas_osr.outputs",
    "Protocol": "nas_osr.data.protocols",
    "RetrainRequest": "nas_osr.retrain.retrain_request",
    "RunFolder": "nas_osr.runs.folder",
    "Scores": "nas_osr.scoring.base",
    "ScoringRule": "nas_osr.scoring.base",
    "SearchRequest": "nas_osr.strategies.search_request",
    "UserError": "nas_osr.errors",
    "evaluate": "nas_osr.api",
    "export_architecture": "nas_osr.search_spaces.architectures.export",
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
