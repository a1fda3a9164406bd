"""The papers' analyses of trained networks, by name: one file a kind, each behind `nas-osr analyse KIND RUN`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from nas_osr.plugins import load_class

if TYPE_CHECKING:
    from nas_osr.retrain.analysis.base import Analysis

#: By kind: "module:Class", what it does in one line, and an example of its command.
ANALYSES: Mapping[str, tuple[str, str, str]] = {
    "confusion": (
        "nas_osr.retrain.analysis.confusion:Confusion",
        "show which known class each unknown one is mistaken for",
        "analyse confusion runs/retrain",
    ),
    "unknowns": (
        "nas_osr.retrain.analysis.unknowns:Unknowns",
        "show macro-F1 against the number of unknown classes",
        "analyse unknowns runs/retrain --plot curve.png",
    ),
    "corruption": (
        "nas_osr.retrain.analysis.corruption:Corruption",
        "measure accuracy on corrupted test images",
        "analyse corruption runs/retrain --kinds gaussian_noise,fog --severities 1-3 --limit 500",
    ),
    "probe": (
        "nas_osr.retrain.analysis.probe:Probe",
        "train a linear classifier on the frozen features",
        "analyse probe runs/retrain",
    ),
    "dimension": (
        "nas_osr.retrain.analysis.dimension:Dimension",
        "estimate the intrinsic dimension of the features",
        "analyse dimension runs/retrain --estimators TwoNN",
    ),
    "counterfactuals": (
        "nas_osr.retrain.analysis.counterfactuals:Counterfactuals",
        "draw images as the decoder sees them under every class",
        "analyse counterfactuals runs/retrain --pictures classes.png",
    ),
    "saliency": (
        "nas_osr.retrain.analysis.saliency:Saliency",
        "measure how much of the images the loss looks at",
        "analyse saliency runs/retrain --limit 500 --pictures saliency.png",
    ),
}


def analysis_class(kind: str) -> type[Analysis]:
    """The class of a kind: of a key of `ANALYSES`, or the dotted path `package.module.Class` of a user's own.

    UserError: there is no such kind or module, or the class is not an `Analysis`.
    """
    from nas_osr.retrain.analysis.base import Analysis

    return load_class("analysis", kind, {name: place for name, (place, *_) in ANALYSES.items()}, Analysis)
