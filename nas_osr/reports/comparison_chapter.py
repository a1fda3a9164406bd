"""The chapters of a report that tell of several retrainings, and of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from nas_osr.errors import UserError
from nas_osr.files.text import read_object
from nas_osr.files.yaml_text import format_yaml
from nas_osr.reports.detection import plot_oscr, plot_roc
from nas_osr.reports.method_curves import plot_openness
from nas_osr.reports.page import Block, Chapter, DataTable, Listing, Passage, Remark
from nas_osr.reports.run_passages import figure_or_reason, flat_settings
from nas_osr.reports.sentences import as_sentence, list_names
from nas_osr.reports.shown_runs import ShownRun, retrainings
from nas_osr.reports.summaries import differing_numbers, plot_bars, plot_pareto, plot_sensitivity
from nas_osr.reports.tables import TITLES, flat_sheet, format_percent, format_size, mean_of, with_other_names
from nas_osr.reports.training_curves import plot_history
from nas_osr.retrain.comparison import METRICS, Row, find_rows, with_published
from nas_osr.retrain.evaluated import is_retraining
from nas_osr.retrain.paired import compare_pair
from nas_osr.runs.run_folder import RunFolder
from nas_osr.sweeps.sweep_folder import STATE, is_record

DECIDES = "auroc"
MANY_RUNS = 7  # in the figures with a curve each
MANY_SETTINGS = 40
MOST_SENSITIVITIES = 2


def comparison_chapter(runs: Sequence[ShownRun]) -> Chapter:
    """Retrainings side by side, and beside the published figures of their protocols. Raises UserError."""
    folders = {run.name: run.folder for run in runs}
    rows = find_rows(list(folders.values()), list(folders))
    everything = with_published(with_other_names(rows), METRICS)
    tables: list[Block] = [metrics_of(everything, name) for name in dict.fromkeys(row.protocol for row in rows)]
    if len(runs) == 2:
        tables.append(paired_table(folders))
    tables.append(sizes_table(rows))
    passages = [
        Passage("Side by side", tables),
        Passage("Figures", comparison_figures(folders, rows)),
        Passage("What differs between them", settings_table(runs)),
        Passage("Configurations", [configuration_listing(run) for run in runs]),
    ]
    return Chapter("comparison", list_names([run.name for run in runs], 6), comparison_answer(rows), passages)


def metrics_of(rows: Sequence[Row], protocol: str) -> DataTable:
    """The methods of one protocol, with the best figure of each metric in bold."""
    sheet = flat_sheet([row for row in rows if row.protocol == protocol], brief=True)
    title = f"On {protocol}, percent, mean ± std"
    return DataTable(title, sheet.headings, sheet.lines, sheet.ranks, sheet.notes)


def sizes_table(rows: Sequence[Row]) -> DataTable:
    """What each run has been evaluated on, and how large its network is."""
    lines = [
        [row.method, row.protocol, row.parts or "-", format_size(row.parameters), format_size(row.macs), row.source]
        for row in rows
    ]
    headings = ["method", "protocol", "splits x seeds", "parameters", "multiply-accumulates", "from"]
    return DataTable("Sizes", headings, lines)


def comparison_answer(rows: Sequence[Row]) -> str:
    """Which method is the best of each protocol, and by how much."""
    said = []
    for protocol in dict.fromkeys(row.protocol for row in rows):
        own = [row for row in rows if row.protocol == protocol and mean_of(row, DECIDES) is not None]
        own.sort(key=lambda row: -(mean_of(row, DECIDES) or 0.0))
        if own:
            figures = [f"{row.method}, {format_percent(row.metrics[DECIDES])} %" for row in own]
            said.append(f"on {protocol} the highest {TITLES[DECIDES]} is that of {'; then '.join(figures[:2])}")
    return as_sentence("; ".join(said) or "none of the runs has a figure for AUROC")


def comparison_figures(folders: dict[str, Path], rows: Sequence[Row]) -> list[Block]:
    """One figure a question, with all runs in it."""
    found: list[Block] = [figure_or_reason("AUROC", "Of each method; lines are std over splits and seeds.", plot_bars,
                                           folders)]  # fmt: skip
    if len({row.protocol for row in rows}) == 1:
        found.append(figure_or_reason("AUROC against size", "Filled: no other is both smaller and better.",
                                      plot_pareto, folders))  # fmt: skip
    if len(folders) > MANY_RUNS:
        return [*found, Remark(f"No curves: {len(folders)} runs are too many for one figure.", quiet=True)]
    return [
        *found,
        figure_or_reason("ROC", "Dots are the runs' own thresholds.", plot_roc, folders),
        figure_or_reason("OSCR", "Known images rightly classified against unknown ones accepted.", plot_oscr, folders),
        figure_or_reason("Openness", "Macro-F1 as unknown classes join.", plot_openness, folders),
        figure_or_reason("Course of the trainings", "A line for each split and seed.", plot_history, folders),
    ]


def paired_table(folders: Mapping[str, Path]) -> Block:
    """How two runs differ on the same test images; a remark where they were judged on others."""
    first, second = folders
    try:
        found = compare_pair(folders[first], folders[second])
    except UserError as error:
        return Remark(f"No comparison image by image: {error}", quiet=True)
    lines = []
    for metric, figures in found["metrics"].items():
        difference, interval, p_value = (figures[key] for key in ("difference", "interval", "wilcoxon_p"))
        shown = "-" if difference is None else f"{100 * difference:+.2f}"
        ends = "-" if interval is None else f"{100 * interval[0]:+.2f} to {100 * interval[1]:+.2f}"
        lines.append([TITLES.get(metric, metric), shown, ends, "-" if p_value is None else f"{p_value:.3g}"])
    headings = ["metric", "difference", "95 % interval", "Wilcoxon p"]
    title = f"{first} minus {second}, points of percent, on the same images of {found['pairs']} splits and seeds"
    return DataTable(title, headings, lines, notes=found["notes"])


def settings_table(runs: Sequence[ShownRun]) -> list[Block]:
    """The settings that are not the same in all runs."""
    settings = [dict(flat_settings(run.parts[0].read_config())) for run in runs]
    names = dict.fromkeys(name for own in settings for name in own)
    differing = [name for name in names if len({own.get(name, "not there") for own in settings}) > 1]
    lines = [[name, *(own.get(name, "not there") for own in settings)] for name in differing[:MANY_SETTINGS]]
    if not lines:
        return [Remark("Nothing but splits, seeds or the network.")]
    notes = [f"{len(differing) - MANY_SETTINGS} more differ."] if len(differing) > MANY_SETTINGS else []
    return [DataTable("Settings that differ", ["setting", *(run.name for run in runs)], lines, notes=notes)]


def configuration_listing(run: ShownRun) -> Listing:
    """A run's configuration, to copy."""
    return Listing(f"config.yaml of {run.name}", format_yaml(RunFolder(run.folder).read_config()))


def sweep_chapter(folder: Path, name: str) -> Chapter:
    """The runs of a sweep, how they ended, and what its retrainings found side by side. Raises UserError."""
    records = read_object(folder / STATE).get("runs")
    if not (isinstance(records, dict) and all(map(is_record, records.values()))):
        raise UserError(f"{folder / STATE}: not the state of a sweep of nas-osr")
    lines = [[run, record["command"], record["status"], took(record), record.get("error") or "-"]
             for run, record in records.items()]  # fmt: skip
    passages = [
        Passage("Its runs", [DataTable("How each ended", ["run", "command", "status", "time", "error"], lines)])
    ]
    done = sum(record["status"] == "finished" for record in records.values())
    answer = f"{done} of {len(records)} runs have finished"
    judged = [run for run in records if (folder / run).is_dir() and is_retraining(folder / run)]
    if judged:
        runs = retrainings({run: folder / run for run in judged})
        chapter = comparison_chapter(runs)
        answer += f"; {chapter.answer}"
        passages += chapter.passages
        for setting in differing_numbers(runs)[:MOST_SENSITIVITIES]:
            figure = figure_or_reason(
                f"Sensitivity to {setting}",
                "A line for each protocol; ± std over splits and seeds.",
                plot_sensitivity,
                [run.folder for run in runs],
                setting=setting,
            )
            passages.insert(2, Passage(f"What {setting} does", [figure]))
    return Chapter("sweep", name, as_sentence(answer), passages)


def took(record: Mapping[str, Any]) -> str:
    """How long a run of a sweep took, or "-"."""
    if not (record.get("started") and record.get("ended")):
        return "-"
    seconds = datetime.fromisoformat(record["ended"]) - datetime.fromisoformat(record["started"])
    return str(seconds)
