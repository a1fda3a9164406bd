"""Figures and tables of finished runs, by name: one function a figure, the functions of a family in one file.

from nas_osr.reports.detection import plot_roc
figure = plot_roc({"CAC": "runs/cac", "cross-entropy": "runs/plain"})       # a matplotlib Figure
"""

from __future__ import annotations

from collections.abc import Mapping

#: By kind: "module:function", and what it shows in one line.
FIGURES: Mapping[str, tuple[str, str]] = {
    "roc": ("nas_osr.reports.detection:plot_roc", "known images accepted against unknown ones accepted"),
    "oscr": ("nas_osr.reports.detection:plot_oscr", "known images rightly classified against unknown ones accepted"),
    "histogram": ("nas_osr.reports.detection:plot_histogram", "knownness of known and unknown images, threshold"),
    "confusion": ("nas_osr.reports.matrices:plot_confusion", "which label the images of each class get"),
    "history": ("nas_osr.reports.training_curves:plot_history", "losses, F1, AUROC, alphas and betas over the epochs"),
}
