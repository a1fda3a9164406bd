"""`nas-osr analyse KIND RUN`: the papers' analyses of trained networks, as tables, JSON and plots."""

from __future__ import annotations

from nas_osr.cli.show import format_metric, show_json, show_table
from nas_osr.retrain.analysis.base import Analysis, run_analysis


def analyse(analysis: Analysis, command: list[str]) -> None:
    """Print the figures of each run: a table, or several, or one JSON object."""
    results = run_analysis(analysis)
    if analysis.json:
        show_json(results)
        return
    for table in analysis.tables(results):
        if table.title:
            print(table.title)
        show_table([[cell if isinstance(cell, str) else format_metric(cell) for cell in row] for row in table.rows])
