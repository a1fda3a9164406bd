"""The chapter of a report that tells of a retraining, over its splits and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nas_osr.metrics.resampling import mean_and_spread
from nas_osr.reports.detection import plot_histogram, plot_oscr, plot_roc
from nas_osr.reports.embeddings_map import plot_embedding
from nas_osr.reports.matrices import plot_confusion
from nas_osr.reports.method_curves import plot_openness, plot_tau
from nas_osr.reports.page import Block, Chapter, DataTable, Facts, Passage, Remark
from nas_osr.reports.run_passages import (
    architecture_blocks,
    class_names,
    configuration,
    figure_or_reason,
    mistakes,
    own_architecture,
)
from nas_osr.reports.search_chapter import HISTORY
from nas_osr.reports.sentences import as_sentence, verdict
from nas_osr.reports.shown_runs import ShownRun, describe_part
from nas_osr.reports.tables import TITLES, format_percent, format_size
from nas_osr.reports.thumbnails import plot_counterfactuals, plot_saliency
from nas_osr.reports.training_curves import plot_history
from nas_osr.retrain.comparison import describe_network

#: What each metric says, in the order in which they are shown.
MEANINGS = {
    "auroc": "chance that a known image looks more known than an unknown one",
    "oscr": "the same, where only rightly classified known images count",
    "macro_f1": "F1, mean over the known classes and unknown",
    "macro_f1_harmonic": "harmonic mean of the F1 of known classes and of unknown",
    "closed_set_accuracy": "known images with the right class on top, nothing rejected",
    "accepted_known": "known images above the threshold",
    "rejected_unknown": "unknown images below the threshold",
    "auin": "precision and recall of known images",
    "auout": "precision and recall of unknown images",
    "tnr_at_95_tpr": "unknown images rejected where 95 % of the known are accepted",
    "dtacc": "best accuracy of telling known from unknown, both equally frequent",
    "openness_cac": "1 - sqrt(2K / (S + K))",
    "openness_gradmix": "1 - sqrt(K / S)",
}
MANY_PARTS = 8  # columns of a table at most


def retraining_chapter(run: ShownRun, data_dir: str | None = None) -> Chapter:
    """What was asked, how well it does, where it errs, and what it is.

    Args:
        run: an evaluated retraining.
        data_dir: folder of its images, where it is not the run's.

    Raises:
        UserError: a file of the run is missing or broken.
    """
    results = run.results()
    metrics = mean_and_spread([result["metrics"] for result in results])
    first = run.parts[0]
    config = first.read_config()
    passages = [
        Passage("What was asked", [Facts(asked_of_retraining(run, config, results)), classes_table(run, results)]),
        Passage("How well it does", [metrics_table(run, results, metrics), *score_figures(run)]),
        mistakes(first, data_dir),
    ]
    architecture = own_architecture(first.path)
    if architecture is not None:
        passages.append(Passage("The network", architecture_blocks(architecture)))
    passages += [Passage("How it was trained", [*training_figures(run, results)]), configuration(first)]
    sentence = verdict(metrics)
    several = f", in the mean over {len(results)} splits and seeds" if len(results) > 1 else ""
    unfinished = [describe_part(part) for part in run.parts if not part.finished]
    if unfinished:
        several += f"; not finished: {', '.join(unfinished)}"
    return Chapter("retraining", run.name, as_sentence(sentence + several), passages)


def asked_of_retraining(
    run: ShownRun, config: Mapping[str, Any], results: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    """The settings that tell a retraining from others."""
    first = results[0]
    images = [result.get("test_images", {}) for result in results]
    facts = {
        "protocol": f"{first['protocol']['name']}, {first['protocol']['family']} splits",
        "splits and seeds": ", ".join(map(describe_part, run.parts)),
        "network": describe_network(config),
        "objective": config.get("objective"),
        "scoring rule": first["rule"],
        "recipe": config.get("recipe"),
        "epochs": config.get("epochs"),
        "size": f"{format_size(first['parameters'])} parameters, {format_size(first.get('macs'))} multiply-accumulates",
        "test images": "; ".join(f"{n['known']} known, {n['unknown']} unknown" for n in images[:1] if n),
    }
    return {name: str(value) for name, value in facts.items() if value not in (None, "")}


def classes_table(run: ShownRun, results: Sequence[Mapping[str, Any]]) -> DataTable:
    """Which classes are known and which unknown, in each split; seeds of a split have the same."""
    lines: dict[str, list[str]] = {}
    for part, result in zip(run.parts, results, strict=True):
        lines.setdefault(describe_part(part).partition(",")[0], list(class_names(result["protocol"])))
    return DataTable("Classes", ["of", "known", "unknown"], [[name, *names] for name, names in lines.items()])


def metrics_table(run: ShownRun, results: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any]) -> DataTable:
    """Each metric in percent: of one part with its 95 % interval, of several mean ± std and each part."""
    names = [name for name in MEANINGS if name in metrics] + [name for name in metrics if name not in MEANINGS]
    parts = [describe_part(part) for part in run.parts] if 1 < len(results) <= MANY_PARTS else []
    headings = ["metric", "mean ± std" if len(results) > 1 else "%", *parts]
    with_intervals = any(pair for result in results for pair in result.get("intervals", {}).values())
    lines = []
    for name in names:
        cells = [format_percent(metrics[name])]
        shown = results if parts else results if len(results) == 1 else []
        own = [interval_text(result, name, with_value=bool(parts)) for result in shown]
        if parts:
            cells += own
        elif own:
            cells += own if with_intervals else []
        lines.append([TITLES.get(name, name.replace("_", " ")), *cells, MEANINGS.get(name, "")])
    if not parts and len(results) == 1 and with_intervals:
        headings.append("95 % interval")
    notes = ["Intervals are of a bootstrap over test images, stratified over classes."] if with_intervals else []
    notes += [f"Of {len(results)} splits and seeds."] if len(results) > MANY_PARTS else []
    return DataTable("Metrics, percent", [*headings, "what it says"], lines, notes=notes)


def interval_text(result: Mapping[str, Any], name: str, *, with_value: bool) -> str:
    """ "84.2 (82.9 to 85.5)" of a part, or the interval alone."""
    value, pair = result["metrics"].get(name), result.get("intervals", {}).get(name)
    shown = "-" if value is None else f"{100 * value:.1f}"
    interval = "" if pair is None else f"{100 * pair[0]:.1f} to {100 * pair[1]:.1f}"
    if not with_value:
        return interval
    return f"{shown} ({interval})" if interval else shown


def score_figures(run: ShownRun) -> list[Block]:
    """How known and unknown images are told apart."""
    paths = {run.name: run.folder}
    parts = [part.path for part in run.parts]
    return [
        figure_or_reason("ROC", "The dot is the run's own threshold; a band is the spread over splits and seeds.",
                         plot_roc, paths),
        figure_or_reason("OSCR", "Known images rightly classified against unknown ones accepted.", plot_oscr, paths),
        figure_or_reason("Knownness", "Of known and unknown images, and of each unknown class; dashed: the threshold.",
                         plot_histogram, parts[0]),
        figure_or_reason("Openness", "Macro-F1 as unknown classes join.", plot_openness, paths),
        figure_or_reason("Which class is taken for which", "Pooled over splits and seeds; below the line unknown "
                         "classes.", plot_confusion, paths, fixed=True),
    ]  # fmt: skip


def training_figures(run: ShownRun, results: Sequence[Mapping[str, Any]]) -> list[Block]:
    """How the training went, and whatever `evaluate` and `analyse` have left besides."""
    part = run.parts[0].path
    found: list[Block] = [figure_or_reason("Course of the training", HISTORY, plot_history, {run.name: run.folder})]
    if results[0].get("threshold_source", {}).get("curve"):
        found.append(figure_or_reason("Choice of tau", "F1 of known validation images at each tau.", plot_tau, part))
    if (part / "embeddings.npz").is_file():
        caption = "Test images on the plane of their largest variance; crosses are unknown."
        found.append(figure_or_reason("Embedding", caption, plot_embedding, part))
    for name, caption, plot in (
        ("counterfactuals", "Images as a member of every class; a frame around the best.", plot_counterfactuals),
        ("saliency", "What the loss looks at.", plot_saliency),
    ):
        if (part / f"analysis-{name}.npz").is_file():
            found.append(figure_or_reason(name.capitalize(), caption, plot, part, fixed=True))
    if len(run.parts) > 1 and len(found) > 1:
        found.append(Remark(f"All but the first of {describe_part(run.parts[0])}.", quiet=True))
    return found
