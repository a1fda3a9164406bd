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
    "embedding": ("nas_osr.reports.embeddings_map:plot_embedding", "features on a plane, class means, anchors"),
    "history": ("nas_osr.reports.training_curves:plot_history", "losses, F1, AUROC, alphas and betas over the epochs"),
    "openness": ("nas_osr.reports.method_curves:plot_openness", "macro-F1 against openness or unknown classes"),
    "tau": ("nas_osr.reports.method_curves:plot_tau", "F1 of known images against the threshold, and the one picked"),
    "corruption": ("nas_osr.reports.method_curves:plot_corruption", "accuracy against the severity of corruptions"),
    "area": ("nas_osr.reports.method_curves:plot_area", "activated area of the saliency against its threshold"),
    "subclusters": (
        "nas_osr.reports.method_curves:plot_subclusters",
        "covering against reconstruction, for each K",
    ),
    "bars": ("nas_osr.reports.summaries:plot_bars", "a metric of each method"),
    "sensitivity": ("nas_osr.reports.summaries:plot_sensitivity", "a metric against a setting that differs"),
    "pareto": ("nas_osr.reports.summaries:plot_pareto", "a metric against parameters or operations, and the front"),
    "trials": ("nas_osr.reports.trial_costs:plot_trials", "the score of each trial against its size, and the front"),
    "spread": ("nas_osr.reports.table_figures:plot_spread", "AUROC of every architecture of tables, and chance"),
    "criteria": ("nas_osr.reports.table_figures:plot_criteria", "what tells the good architectures of tables"),
    "regret": ("nas_osr.reports.table_figures:plot_regret", "what strategies find in a table, over their cost"),
    "counterfactuals": ("nas_osr.reports.thumbnails:plot_counterfactuals", "images as a member of every class"),
    "saliency": ("nas_osr.reports.thumbnails:plot_saliency", "what the loss looks at in images"),
    "mistakes": ("nas_osr.reports.thumbnails:plot_mistakes", "test images that are mistaken with most confidence"),
}
