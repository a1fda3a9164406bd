"""Neural architecture search for open-set image recognition.

The public names below are imported when they are first used, so that `import nas_osr` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Architecture": "nas_osr.architecture",
    "Branch": "nas_osr.architecture",
    "Objective": "nas_osr.objectives.base",
    "Outputs": "nas_osr.outputs",
    "Protocol": "nas_osr.data.protocols",
    "RetrainConfig": "retrain.config",
    "RunFolder": "nas_osr.runs",
    "ScoringRule": "nas_osr.scoring.base",
    "SearchConfig": "strategies.config",
    "UserError": "nas_osr.errors",
    "evaluate": "nas_osr.api",
    "export_architecture": "nas_osr.export",
    "load_architecture": "nas_osr.architecture",
    "load_data": "nas_osr.data.dataset",
    "make_objective": "nas_osr.objectives",
    "make_protocol": "nas_osr.data.protocols",
    "make_rule": "nas_osr.scoring",
    "retrain": "nas_osr.api",
    "score_arrays": "nas_osr.score_file",
    "search": "nas_osr.api",
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
