"""The chapter of a report that tells of a table of trained architectures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from nas_osr.files.yaml_text import format_yaml
from nas_osr.reports.page import Chapter, DataTable, Drawing, Facts, Listing, Passage, Remark, draw_figure
from nas_osr.reports.run_passages import architecture_blocks, class_names, describe_ways
from nas_osr.reports.sentences import as_sentence, list_names
from nas_osr.reports.style import BLUE, UNKNOWN, one_axes, styled
from nas_osr.reports.tables import format_size
from nas_osr.strategies.table import SearchTable, read_table
from nas_osr.strategies.table_report import correlate, describe_spread

BEST = 10  # architectures that are listed
SPREAD = {
    "best": "of the means over seeds",
    "median": "likewise",
    "worst": "likewise",
    "spread": "standard deviation between architectures",
    "noise": "standard deviation between the seeds of one architecture",
    "between": "what is left of the spread without the noise",
}


def table_chapter(path: Path, name: str) -> Chapter:
    """What there is to find in a space, what tells the good ones, and which these are. Raises UserError."""
    table = read_table(path)
    rule, header = table.check_rule(None), table.header
    true = table.true(rule, "auroc")[:, :, -1].mean(axis=1)
    order = np.argsort(-true, kind="stable").tolist()
    spread, correlations = describe_spread(table, rule), correlate(table, rule)
    best = table.architecture(order[0])
    answer = (
        f"the best of {len(table.rows)} architectures has AUROC {100 * true.max():.1f} %, the median one "
        f"{100 * np.median(true):.1f} %"
    )
    between, noise = spread["between"], spread["noise"]
    if between is not None and noise is not None:
        answer += (
            f"; between architectures lie {100 * between:.2f} points (standard deviation without the noise), "
            f"between seeds of one {100 * noise:.2f}"
        )
    passages = [
        Passage("What was asked", [Facts(asked_of_table(table))]),
        Passage("What there is to find", [
            spread_table(spread), draw_sizes(table, true), correlations_table(correlations),
            Remark("What strategies find in it, and at what cost: nas-osr table."),
        ]),
        Passage("The best architectures", [best_table(table, true, order[:BEST]), *architecture_blocks(best)]),
        Passage("Configuration and provenance", [
            Listing("Configuration", format_yaml(dict(header["config"]))),
            Listing("Provenance", format_yaml(dict(header["provenance"]))),
        ]),
    ]  # fmt: skip
    return Chapter("table of trained architectures", name, as_sentence(answer), passages)


def asked_of_table(table: SearchTable) -> dict[str, str]:
    """What a table is of."""
    header, space = table.header, table.space
    known, unknown = class_names(header["protocol"])
    whole = "all of the space" if header["complete"] else "a sample of the space"
    return {
        "protocol": str(header["protocol"]["name"]),
        "known classes": known,
        "unknown classes": unknown,
        "space": f"{space.layers} layers, {space.channels} channels, {list_names(space.operations)}",
        "architectures": f"{len(table.rows)}, {whole}",
        "trainings of each": f"{header['seeds']} seeds, {len(header['rotations'])} rotations",
        "epochs": str(header["epochs"]),
        "scoring rules": list_names(header["rules"]),
    }


def spread_table(spread: dict[str, float | None]) -> DataTable:
    """How far architectures differ."""
    lines = [[name, "-" if value is None else f"{100 * value:.2f}", SPREAD[name]] for name, value in spread.items()]
    return DataTable("True AUROC after the last epoch, percent", ["figure", "%", "what it is"], lines)


def correlations_table(correlations: dict[str, tuple[float, float, float]]) -> DataTable:
    """What a search could go by."""
    lines = [[name, f"{value:.3f}", f"{low:.3f} to {high:.3f}"] for name, (value, low, high) in correlations.items()]
    headings = ["criterion", "correlation", "95 % interval over architectures"]
    return DataTable("Rank correlation with the true AUROC", headings, lines)


def draw_sizes(table: SearchTable, true: np.ndarray) -> Drawing:
    """AUROC against size."""
    caption = "A dot for each architecture, means over seeds; the best is orange."
    return draw_figure("AUROC against size", caption, plot_sizes(table.column("parameters"), true))


@styled
def plot_sizes(parameters: np.ndarray, true: np.ndarray, *, columns: int = 1) -> Figure:
    """True AUROC [architectures] against their parameters, the best apart."""
    figure, axes = one_axes(columns, 0.8)
    axes.plot(parameters / 1e6, 100 * true, "o", color=BLUE, markersize=2.8, alpha=0.6, markeredgewidth=0)
    best = int(true.argmax())
    axes.plot(parameters[best] / 1e6, 100 * true[best], "s", color=UNKNOWN, markersize=4.5)
    axes.set(xlabel="million parameters", ylabel="AUROC (%)")
    return figure


def best_table(table: SearchTable, true: np.ndarray, places: list[int]) -> DataTable:
    """The best architectures, with what they are."""
    lines = [
        [
            str(rank), f"{100 * true[place]:.2f}", format_size(table.rows[place]["parameters"]),
            format_size(table.rows[place]["macs"]), describe_ways(table.architecture(place)),
        ]
        for rank, place in enumerate(places, start=1)
    ]  # fmt: skip
    headings = ["rank", "AUROC, %", "parameters", "multiply-accumulates", "operation@resolution of each layer"]
    return DataTable("By true AUROC", headings, lines)
