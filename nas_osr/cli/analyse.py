"""`nas-osr analyse KIND RUN`: the papers' analyses of trained networks, as tables, JSON and plots."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas_osr.cli.show import format_metric, show_json, show_table
from nas_osr.plugins import load
from nas_osr.reports import FIGURES
from nas_osr.retrain.analysis.base import Analysis, open_runs, run_analysis


def analyse(analysis: Analysis, command: list[str]) -> None:
    """Print the figures of each run: a table, or several, or one JSON object; and draw what is asked for."""
    results = run_analysis(analysis)
    draw_results(analysis, results)
    if analysis.json:
        show_json(results)
        return
    for table in analysis.tables(results):
        if table.title:
            print(table.title)
        show_table([[cell if isinstance(cell, str) else format_metric(cell) for cell in row] for row in table.rows])


def draw_results(analysis: Analysis, results: Mapping[str, Any]) -> None:
    """Draw curves and pictures where the options ask for them; of several runs a picture each. Raises UserError."""
    plot, pictures = (getattr(analysis, name, None) for name in ("plot", "pictures"))
    if not (plot or pictures):
        return
    from nas_osr.reports.method_curves import plot_curves
    from nas_osr.reports.style import save_figure

    curves = analysis.curves(results)
    if plot and curves is not None:
        save_figure(plot_curves(curves), plot)
    if pictures and analysis.name in FIGURES:
        runs, path = open_runs(analysis.run), Path(pictures)
        for name, run in runs.items():
            file = path if len(runs) == 1 else path.with_stem(f"{path.stem}-{name.replace('/', '-')}")
            save_figure(load(FIGURES[analysis.name][0])(run.path), file)
