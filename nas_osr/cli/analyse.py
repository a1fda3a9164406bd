"""`nas-osr analyse KIND RUN`: the papers' analyses of trained networks, as tables, JSON and plots."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nas_osr.cli.show import format_metric, show_json, show_metrics, show_table

if TYPE_CHECKING:
    from nas_osr.retrain.analysis.config import (
        ConfusionConfig,
        CorruptionConfig,
        DimensionConfig,
        ProbeConfig,
        SaliencyConfig,
        UnknownsConfig,
    )

Figures = Mapping[str, Any]


def confusion(config: ConfusionConfig, command: list[str]) -> None:
    """Print for each unknown class the share of its images that each known class gets: a table for each run."""
    from nas_osr.retrain.analysis.confusion import run_confusion

    results = run_confusion(config)
    if config.json:
        show_json(results)
        return
    for name, figures in results.items():
        if len(results) > 1:
            print(name)
        last = ["mistaken for"] if config.closed else ["rejected", "mistaken for"]
        rows = [["unknown class", "images", *figures["known"], *last]]
        for unknown, row in figures["unknown"].items():
            shares = row["shares"] if config.closed else [*row["shares"], row["rejected"]]
            rows.append([unknown, str(row["images"]), *map(format_metric, shares), row["mistaken_for"] or "-"])
        show_table(rows)


def unknowns(config: UnknownsConfig, command: list[str]) -> None:
    """Print macro-F1 for every number of unknown classes: mean and spread over their subsets, a column for each run."""
    from nas_osr.metrics.resampling import summarise
    from nas_osr.retrain.analysis.unknowns import run_unknowns

    curves = run_unknowns(config)
    if config.json:
        show_json(curves)
        return
    longest = max(curves.values(), key=len)
    rows = [["unknown classes", "openness (cac)", "openness (gradmix)", "subsets", *(f"F1 {name}" for name in curves)]]
    if len(curves) > 1:
        rows[0].append("F1 mean over runs")
    for count, point in enumerate(longest):
        there = [curve[count] if count < len(curve) else None for curve in curves.values()]
        row = [str(count), format_metric(point["openness_cac"]), format_metric(point["openness_gradmix"])]
        row.append(str(point["subsets"]))
        row += [format_metric(item and {"mean": item["macro_f1"], "std": item["std"]}) for item in there]
        if len(curves) > 1:
            row.append(format_metric(summarise([{"f1": item["macro_f1"]} for item in there if item])["f1"]))
        rows.append(row)
    show_table(rows)


def corruption(config: CorruptionConfig, command: list[str]) -> None:
    """Print accuracy on corrupted images by kind: a column for each severity, or of several runs one for each run."""
    from nas_osr.retrain.analysis.corruption import run_corruption

    def report(line: str) -> None:
        if not config.quiet:
            print(line, file=sys.stderr, flush=True)

    results = run_corruption(config, report)
    if config.json:
        show_json(results)
        return
    for measure in ("accuracy", "auroc") if config.unknown else ("accuracy",):
        means = {name: mean_by_kind(figures, measure) for name, figures in results.items()}
        if len(results) > 1:
            print(f"{measure}, mean over severities {config.severities}")
            show_columns(means)
            continue
        [figures], [mean] = results.values(), means.values()
        print(f"{measure}, {format_metric(mean.pop('clean'))} on clean images")
        severities = {
            f"severity {severity}": {kind: row[place] for kind, row in figures[measure].items()}
            for place, severity in enumerate(figures["severities"])
        }
        show_metrics({**severities, "mean": mean})


def probe(config: ProbeConfig, command: list[str]) -> None:
    """Print the accuracy of the linear classifier beside that of the network itself: a column for each run."""
    from nas_osr.retrain.analysis.probe import run_probe

    results = run_probe(config)
    if config.json:
        show_json(results)
        return
    shown = ("top1", "top5", "train_top1", "network")
    show_columns({name: {key: figures[key] for key in shown} for name, figures in results.items()})
    for name, figures in results.items():
        if not figures["converged"]:
            print(f"{name}: not converged after {config.iterations} iterations: raise --iterations", file=sys.stderr)


def dimension(config: DimensionConfig, command: list[str]) -> None:
    """Print the intrinsic dimensions: of one run for each class too, of several a column for each run."""
    from nas_osr.retrain.analysis.dimension import run_dimension

    results = run_dimension(config)
    if config.json:
        show_json(results)
        return
    if len(results) == 1:
        [spaces] = results.values()
        columns = {
            key: {"all": found["all"], "class mean": found["class_mean"], **found["classes"]}
            for key, found in flat(spaces)
        }
        show_metrics(columns)
        return
    show_columns(
        {
            name: {f"{key} {part}": found[part] for key, found in flat(spaces) for part in ("all", "class_mean")}
            for name, spaces in results.items()
        }
    )


def saliency(config: SaliencyConfig, command: list[str]) -> None:
    """Print the activated area at each threshold: a column for each run."""
    from nas_osr.retrain.analysis.saliency import run_saliency

    results = run_saliency(config)
    if config.json:
        show_json(results)
        return
    show_columns(
        {
            name: {
                f"S({threshold:.2e})": area
                for threshold, area in zip(figures["thresholds"], figures["area"], strict=True)
            }
            for name, figures in results.items()
        }
    )


def flat(spaces: Figures) -> list[tuple[str, Any]]:
    """The estimates of `nas_osr.retrain.analysis.dimension.measure` by "SPACE ESTIMATOR"."""
    return [
        (f"{space} {estimator}", found) for space, estimates in spaces.items() for estimator, found in estimates.items()
    ]


def mean_by_kind(figures: Figures, measure: str) -> dict[str, float | None]:
    """Clean images, each kind over its severities, and the mean over all."""
    rows = {kind: [value for value in row if value is not None] for kind, row in figures[measure].items()}
    means = {kind: sum(row) / len(row) if row else None for kind, row in rows.items()}
    return {"clean": figures[f"clean_{measure}"], **means, "mean": figures[f"mean_{measure}"]}


def show_columns(columns: Mapping[str, Mapping[str, Any]]) -> None:
    """Print a column for each run, and their mean where there are several."""
    from nas_osr.metrics.resampling import summarise

    show_metrics({**columns, "mean": summarise(list(columns.values()))} if len(columns) > 1 else columns)
