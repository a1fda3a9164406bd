"""What Python's functions return: plain dictionaries and lists that show themselves in a notebook.

A picture that cannot be made, since the run's folder has gone meanwhile, leaves the plain value to be shown.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


class SearchAnswer(dict[str, Any]):
    """What a search found; in a notebook its sentence, the network found, and how the search went."""

    def _repr_html_(self) -> str | None:
        if not (Path(self.get("out", "")) / "architecture.json").is_file() or "f1" not in self:
            return None
        from nas_osr.reports.page import Drawing, write_fragment  # matplotlib
        from nas_osr.reports.search_chapter import search_chapter
        from nas_osr.runs.run_folder import RunFolder

        chapter = search_chapter(RunFolder.open(self["out"]), self["out"])
        drawings = [block for part in chapter.passages for block in part.blocks if isinstance(block, Drawing)]
        return write_fragment(chapter.answer, drawings)


class RetrainingAnswer(dict[str, Any]):
    """What a retraining measured; in a notebook its sentence, every metric, and the ROC."""

    def _repr_html_(self) -> str | None:
        if "metrics" not in self or not Path(self["out"]).is_dir():
            return None
        from nas_osr.reports.page import write_fragment  # matplotlib
        from nas_osr.reports.retraining_chapter import metrics_table, score_figures
        from nas_osr.reports.sentences import as_sentence, verdict
        from nas_osr.reports.shown_runs import retrainings

        [run] = retrainings(self["out"])
        table = metrics_table(run, run.results(), self["metrics"])
        return write_fragment(as_sentence(verdict(self["metrics"])), [table, *score_figures(run)[:2]])


class EvaluationAnswers(list[dict[str, Any]]):
    """What evaluations measured, one for each split, seed and rule; in a notebook a table with a line each."""

    def _repr_html_(self) -> str:
        from nas_osr.metrics.resampling import mean_and_spread
        from nas_osr.reports.page import DataTable, write_fragment  # matplotlib
        from nas_osr.reports.sentences import as_sentence, verdict
        from nas_osr.reports.tables import TITLES, format_percent

        metrics = list(dict.fromkeys(name for result in self for name in result["metrics"] if name in TITLES))
        lines = [
            [
                f"{result['rule']}, split {result['protocol']['split']}",
                *(format_percent({"mean": result["metrics"].get(name), "std": None}) for name in metrics),
            ]
            for result in self
        ]
        table = DataTable("Metrics, percent", ["rule, split", *(TITLES[name] for name in metrics)], lines)
        rules = {result["rule"] for result in self}
        means = mean_and_spread([result["metrics"] for result in self])
        answer = as_sentence(verdict(means)) if len(rules) == 1 else f"{len(rules)} rules on the same network."
        return write_fragment(answer, [table])
