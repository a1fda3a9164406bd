"""Objectives: training losses with their heads, by name. Free of torch until one is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nas_osr.configuration import make_config
from nas_osr.plugins import load_class

if TYPE_CHECKING:
    from nas_osr.data.protocols import Protocol
    from nas_osr.objectives.base import Objective
    from nas_osr.outputs import FeatureShapes

OBJECTIVES: dict[str, str] = {
    "vae_contrastive": "nas_osr.objectives.vae_contrastive:VAEContrastive",
    "cross_entropy": "nas_osr.objectives.cross_entropy:CrossEntropy",
    "cac": "nas_osr.objectives.cac:CAC",
    "crosr": "nas_osr.objectives.crosr:CROSR",
    "confidence": "nas_osr.objectives.confidence:Confidence",
    "gmvae": "nas_osr.objectives.gmvae:GMVAE",
    "supcon": "nas_osr.objectives.supcon:SupCon",
    "moco": "nas_osr.objectives.moco:MoCo",
    "arpl": "nas_osr.objectives.arpl:ARPL",
    "proser": "nas_osr.objectives.proser:PROSER",
    "conosr": "nas_osr.objectives.conosr:ConOSR",
}


def objective_class(name: str, *, import_plugins: bool = True) -> type[Objective]:
    """The objective of this name or dotted path (see `nas_osr.plugins.load_class`); UserError when there is none."""
    from nas_osr.objectives.base import Objective

    return load_class("objective", name, OBJECTIVES, Objective, import_plugins=import_plugins)


def makes_views(name: Any) -> bool:
    """Whether this is the name of a shipped objective that makes its own views of images."""
    return isinstance(name, str) and name in OBJECTIVES and objective_class(name).makes_views


def resolve_objective_config(name: str, settings: Mapping[str, Any], protocol: Protocol, phase: str) -> Any:
    """The full config of an objective by name or dotted path.

    Its own defaults, then the paper's for this protocol and phase ("search" or "retrain"), then the user's settings.
    """
    chosen = objective_class(name)
    return make_config(f"objective {name}", chosen.config_class, chosen.complete(settings, protocol, phase))


def make_objective(
    name: str, shapes: FeatureShapes, image_shape: tuple[int, int, int], num_classes: int, config: Any
) -> Objective:
    """The objective with fresh heads; `config` is what `resolve_objective_config` returned."""
    return objective_class(name)(shapes, image_shape, num_classes, config)
