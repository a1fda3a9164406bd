"""The interface of every analysis: its options, the figures of one run, and how they are shown.

The file of a kind is imported to show its options, which must answer at once: what is heavy (torch, NumPy, and what
stands on them) is imported inside the functions that compute.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from nas_osr.configuration import Checked, UserPath
from nas_osr.errors import UserError
from nas_osr.retrain.retrain_request import ReopenOptions
from nas_osr.runs.run_folder import RunFolder

if TYPE_CHECKING:
    from nas_osr.retrain.reopen import Reopened

# Which run, and how it is shown: no part of what is computed.
NOT_KEPT = frozenset({"run", "json", "quiet", "plot", "pictures", "data_dir", "plugin", "threads"})
PLOT_FORMATS = ("png", "svg", "pdf")
Found = TypeVar("Found")
Curve = tuple[Sequence[float], Sequence[float], Sequence[float] | None]  # x, y and the spread of y

logger = logging.getLogger(__name__)


class Table(NamedTuple):
    """A table for people."""

    rows: list[list[Any]]
    """the first is the heading. A cell is a text, a number (shown with four digits), None (undefined), or {"mean",
    "std"} of several runs."""
    title: str = ""
    "a line above it; none where it is empty."


@dataclass(frozen=True)
class Curves:
    """Curves in one pair of axes, by the names of their runs (see `by_method`)."""

    lines: Mapping[str, Curve]
    x_label: str
    y_label: str
    logarithmic: bool = False
    "of x."


@dataclass
class Analysis(Checked):
    """Which run is analysed, and how it is shown.

    A kind of analysis sets `name`, says its options as fields, each with its help under it, and implements `figures`
    and `tables`. It refuses strange options in `check`. One with an option `plot` says in `curves` what is drawn; one
    with an option `pictures` leaves analysis-NAME.npz in the run folder: `keep_pictures` of `frozen_network`.
    """

    name: ClassVar[str]  # the figures are kept as analysis-NAME.json

    run: UserPath
    "folder of one retraining, or of several (`split-0` ...), or of several methods, such as that of a sweep."
    json: bool = False
    "print the result as one JSON object: the figures of each run by its folder's name."

    def check(self) -> None:
        """Say what is wrong with the options, before anything is opened. Raises UserError."""

    def figures(self, run: RunFolder) -> Any:
        """What is found of one finished retraining, as plain values by name. Raises UserError."""
        raise NotImplementedError

    def keep(self, run: RunFolder, figures: Any) -> None:
        """Leave analysis-NAME.json in the run folder: the figures, and the options that they were computed with."""
        options = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in NOT_KEPT}
        run.write_json(f"analysis-{self.name}.json", {"options": options, **figures})

    def curves(self, results: Mapping[str, Any]) -> Curves | None:
        """What --plot draws of the figures of each run, by its folder's name; None where there is no such option."""
        return None

    def tables(self, results: Mapping[str, Any]) -> Iterable[Table]:
        """The figures of each run, by its folder's name, for people."""
        raise NotImplementedError


@dataclass
class NetworkAnalysis(ReopenOptions, Analysis):
    """Which run is analysed, and where its network runs."""

    def reopen(self, run: RunFolder) -> Reopened:
        """The network and data of a run as the options ask. Raises UserError."""
        from nas_osr.retrain.reopen import reopen

        return reopen(run, self)


def run_analysis(analysis: Analysis) -> dict[str, Any]:
    """The figures of each run, by its folder's name; kept in the run folders.

    UserError: strange options, no finished retraining, or missing images.
    """
    analysis.check()
    results = {}
    for name, run in open_runs(analysis.run).items():
        results[name] = analysis.figures(run)
        analysis.keep(run, results[name])
    return results


def open_runs(folder: str) -> dict[str, RunFolder]:
    """The finished retrainings in a folder, by name: `split-0` ...; of several methods METHOD, or METHOD/split-0 ...

    A method that has not finished is left out, and said. Raises UserError when there is something else, or nothing.
    """
    from nas_osr.retrain.reopen import open_parts

    path = Path(folder)
    methods = find_methods(path)
    runs: dict[str, RunFolder] = {}
    for method in methods or [path]:
        parts = open_parts(method)
        unfinished = [part for part in parts if not (part.path / "predictions.csv").exists()]
        if unfinished and methods:
            logger.warning("%s: left out, it has not finished", unfinished[0].path)
            continue
        if unfinished:
            raise UserError(f"{unfinished[0].path}: no predictions.csv: analyse needs a finished retraining")
        for part in parts:
            name = folder_name(part)
            whole = method.name if len(parts) == 1 else f"{method.name}/{name}"
            runs[whole if methods else name] = part
    if not runs:
        raise UserError(f"{path}: no predictions.csv in any of its runs: analyse needs a finished retraining")
    return runs


def find_methods(folder: Path) -> list[Path]:
    """The retrainings that lie in a folder which is none itself; none where it is one."""
    if not folder.is_dir() or (folder / "provenance.json").exists() or any(folder.glob("split-*")):
        return []
    inside = (entry for entry in sorted(folder.iterdir()) if (entry / "provenance.json").exists())
    return [entry for entry in inside if (entry / "predictions.csv").exists() or any(entry.glob("split-*"))]


def by_method(results: Mapping[str, Found]) -> dict[str, list[Found]]:
    """Results by the name of their run (see `open_runs`), together for each method; of one retraining all of them."""
    methods: dict[str, list[Found]] = {}
    for name, found in results.items():
        methods.setdefault("" if name.startswith("split-") else name.partition("/")[0], []).append(found)
    return methods


def folder_name(run: RunFolder) -> str:
    """What a run is called in results."""
    return run.path.resolve().name


def columns_table(columns: Mapping[str, Mapping[str, Any]], title: str = "") -> Table:
    """A column for each heading, a row for each name in any of them: heading -> {name: cell}."""
    names = dict.fromkeys(name for column in columns.values() for name in column)
    rows = [[name, *(column.get(name) for column in columns.values())] for name in names]
    return Table([["metric", *columns], *rows], title)


def runs_table(runs: Mapping[str, Mapping[str, Any]], title: str = "") -> Table:
    """`columns_table` of runs with their mean beside them where there are several; or those of methods."""
    from nas_osr.metrics.resampling import mean_and_spread

    methods = by_method(runs)
    if len(methods) > 1:
        means = {name: parts[0] if len(parts) == 1 else mean_and_spread(parts) for name, parts in methods.items()}
        return columns_table(means, title)
    return columns_table({**runs, "mean": mean_and_spread(list(runs.values()))} if len(runs) > 1 else runs, title)


def require(module: str) -> Any:
    """A module of the extra `analysis`. Raises UserError when it is not installed or cannot be imported."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"this analysis needs {module} ({error}): pip install 'nas-osr[analysis]'") from error


def check_picture(path: str | None, formats: tuple[str, ...] = PLOT_FORMATS) -> None:
    """UserError unless a picture of this name can be written, or none is asked for: said before the computation."""
    if path is None:
        return
    if Path(path).suffix[1:] not in formats:
        raise UserError(f"{path}: the name of a picture must end in {' or '.join(f'.{name}' for name in formats)}")
    if not Path(path).parent.is_dir():
        raise UserError(f"{path}: its folder does not exist")
