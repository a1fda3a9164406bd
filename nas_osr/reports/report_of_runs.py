"""A report: a chapter for each search, sweep and retraining, or one for several retrainings side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from nas_osr.errors import UserError
from nas_osr.files.paths import is_pattern
from nas_osr.reports.comparison_chapter import comparison_chapter, sweep_chapter
from nas_osr.reports.page import Chapter, write_page
from nas_osr.reports.retraining_chapter import retraining_chapter
from nas_osr.reports.search_chapter import is_search, search_chapter
from nas_osr.reports.shown_runs import Runs, by_name, retrainings
from nas_osr.reports.table_chapter import table_chapter
from nas_osr.runs.names import FIT_SEARCH, FIT_TRAINING, is_run_folder
from nas_osr.runs.run_folder import RunFolder
from nas_osr.strategies.table import TABLE_FILE
from nas_osr.sweeps.sweep_folder import STATE


def report_of(runs: Runs, *, title: str | None = None, data_dir: str | None = None) -> str:
    """One self-contained HTML page about runs; equal runs give equal bytes.

    Args:
        runs: folders of searches, retrainings, sweeps, tables and `fit`, files of tables, and folders that hold
            retrainings; by name, or under the names of their folders. Several retrainings are compared.
        title: of the page; the name of the run, or "A and B", when not given.
        data_dir: folder of the images from which the mistakes are shown, where it is not the run's.

    Raises:
        UserError: a folder holds nothing to tell of, or a file in it is missing or broken.
    """
    chapters: list[Chapter] = []
    trained: dict[str, Path] = {}
    for name, path in by_name(runs).items():
        if path.is_file():
            chapters.append(table_chapter(path, name))
            continue
        if is_pattern(path) and isinstance(runs, Mapping):
            raise UserError(f"{path}: in a report the folders of a pattern have their own names: leave --name out")
        if not path.is_dir():
            raise UserError(f"{path}: no such folder or table")
        if (path / STATE).is_file():
            chapters.append(sweep_chapter(path, name))
        elif (path / TABLE_FILE).is_file():
            chapters.append(table_chapter(path, name))
        elif (path / FIT_TRAINING).is_dir():  # what `fit` leaves
            if (path / FIT_SEARCH / "config.yaml").is_file():
                chapters.append(search_chapter(RunFolder.open(path / FIT_SEARCH), f"{name}, its search"))
            trained[name] = path / FIT_TRAINING
        elif is_run_folder(path) and is_search(RunFolder.open(path).read_config()):
            chapters.append(search_chapter(RunFolder.open(path), name))
        else:
            trained[name] = path
    if trained:
        chapters.append(chapter_of_trained(trained, data_dir))
    heading = title or " and ".join(chapter.title for chapter in chapters)
    return write_page(heading, chapters)


def chapter_of_trained(trained: Mapping[str, Path], data_dir: str | None) -> Chapter:
    """One retraining by itself, or several side by side. Raises UserError."""
    found = [run for name, path in trained.items() for run in retrainings(named_unless_several(name, path))]
    return retraining_chapter(found[0], data_dir) if len(found) == 1 else comparison_chapter(found)


def named_unless_several(name: str, path: Path) -> Runs:
    """A retraining under its name; a folder that holds several, whose names are then their own."""
    return {name: path} if is_run_folder(path) else path
