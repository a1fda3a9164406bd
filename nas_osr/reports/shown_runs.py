"""What figures show: runs by their names, and what the files in their folders hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from nas_osr.errors import UserError
from nas_osr.evaluation.predictions import Predictions, read_predictions
from nas_osr.files.paths import fitting, is_pattern, user_path
from nas_osr.retrain.evaluated import check_distinct, find_runs, finished_parts
from nas_osr.retrain.reopen import open_parts
from nas_osr.runs.run_folder import RunFolder

Runs: TypeAlias = str | Path | Sequence[str | Path] | Mapping[str, str | Path]
"""A folder, several, or folders by the names that the legend has for them."""


@dataclass(frozen=True)
class ShownRun:
    """A run of a figure: a retraining with its splits and seeds, or another run folder."""

    name: str
    parts: tuple[RunFolder, ...]

    @property
    def folder(self) -> Path:
        """The folder around its splits and seeds, if these are all that it holds; else that of its one part."""
        first = self.parts[0].path.resolve()
        whole = sorted(first.parent.glob("split-*")) == [part.path.resolve() for part in self.parts]
        return first.parent if whole and (first.parent / "config.yaml").is_file() else first

    def named_parts(self) -> Iterator[tuple[str, RunFolder]]:
        """Its splits and seeds, each with a title."""
        for part in self.parts:
            yield (self.name if len(self.parts) == 1 else f"{self.name}, {describe_part(part)}"), part

    def predictions(self, label: str = "") -> list[Predictions]:
        """What was said of each test image, known and unknown, in each split and seed.

        Args:
            label: of predictions-LABEL.csv, which `evaluate` left under another rule or unknown source.

        Raises:
            UserError: there is no such file, or no image of an unknown class, or of a known one, in it.
        """
        found = []
        for part in self.parts:
            path = part.path / labelled("predictions", label, "csv")
            hint = f"evaluate {part.path}" + (f" --rule {label}, or --unknown {label}" if label else "")
            predictions = read_predictions(need(path, hint))
            unknown = predictions.true_label == predictions.num_known
            if unknown.all() or not unknown.any():
                raise UserError(f"{path}: no image of {'a known' if unknown.all() else 'an unknown'} class in it")
            found.append(predictions)
        return found

    def results(self, label: str = "") -> list[dict[str, Any]]:
        """What metrics.json, or metrics-LABEL.json, holds for each split and seed. Raises UserError."""
        name = labelled("metrics", label, "json")
        for part in self.parts:
            need(part.path / name, f"evaluate {part.path}")
        return [part.read_json(name) for part in self.parts]


def labelled(stem: str, label: str, suffix: str) -> str:
    """The name of a file that an evaluation leaves."""
    return f"{stem}-{label}.{suffix}" if label else f"{stem}.{suffix}"


def describe_part(part: RunFolder) -> str:
    """ "split 0" or "split 0, seed 1" of a folder's name."""
    return part.path.resolve().name.replace("-seed-", ", seed ").replace("split-", "split ")


def need(path: Path, command: str) -> Path:
    """A file that is there; UserError, which says what would make it, otherwise."""
    if not path.is_file():
        raise UserError(f"{path}: not there; make it first: nas-osr {command}")
    return path


def retrainings(runs: Runs) -> list[ShownRun]:
    """The retrainings that folders are, or hold at any depth, with the names of their folders where none are given.

    Several that have been given one name are one method: their splits and seeds are put together.

    Raises:
        UserError: a folder holds none, or several of one name are of different protocols, or two of the same split and
            seed.
    """
    if isinstance(runs, Mapping):
        return [ShownRun(name, parts_of_method(name, find_runs(path))) for name, path in by_name(runs).items()]
    shown: dict[str, Path] = {}
    listed = map(user_path, [runs] if isinstance(runs, str | Path) else runs)
    folders = [folder for path in listed for folder in (find_runs(path) if is_pattern(path) else [path])]
    for name, path in by_name(folders).items():
        found = find_runs(path)
        shown |= {name: found[0]} if len(found) == 1 else by_name(found)
    return [ShownRun(name, tuple(open_parts(path))) for name, path in shown.items()]


def parts_of_method(name: str, folders: Sequence[Path]) -> tuple[RunFolder, ...]:
    """The splits and seeds of the retrainings of a method. UserError: see `retrainings`."""
    parts = [part for folder in folders for part in open_parts(folder)]
    if len(folders) > 1:
        finished = [part for folder in folders for part in finished_parts(folder)]
        kinds = sorted({f"{part.protocol()} ({part.family()}) by {part.results['']['rule']}" for part in finished})
        if len(kinds) > 1:
            raise UserError(f"{name}: is the name of retrainings on {' and '.join(kinds)}: name each")
        check_distinct(finished)
    return tuple(parts)


def run_folders(runs: Runs) -> list[ShownRun]:
    """Run folders of any kind; a retraining over splits and seeds has several parts. Raises UserError."""
    return [ShownRun(name, tuple(open_parts(path))) for name, path in by_name(runs).items()]


def by_name(runs: Runs) -> dict[str, Path]:
    """Folders by name: the given one, or that of the folder, and of those around it that tell them apart.

    A pattern is all that it fits, unless it has been given a name.
    """
    if isinstance(runs, Mapping):
        return {name: user_path(path) for name, path in runs.items()}
    listed = map(user_path, [runs] if isinstance(runs, str | Path) else runs)
    paths = list(dict.fromkeys(path for each in listed for path in folders_first(each)))
    parts = [path.resolve().parts for path in paths]
    least = 2 if any(own[-1].startswith("split-") for own in parts) else 1
    for depth in range(least, max(map(len, parts), default=0) + 1):
        names = ["/".join(own[-depth:]) for own in parts]
        if len(set(names)) == len(names):
            return dict(zip(names, paths, strict=True))
    raise UserError("a run is named twice")


def folders_first(path: Path) -> list[Path]:
    """A path itself; of a pattern the folders that it fits, or files where it fits no folder."""
    found = fitting(path)
    return [each for each in found if each.is_dir()] or found or [path]


def only_run(shown: Sequence[ShownRun], kind: str) -> ShownRun:
    """The one run of a figure that shows one; UserError where there are several."""
    if len(shown) != 1:
        raise UserError(f"plot {kind}: shows one run, and these are {len(shown)}: name one of them")
    return shown[0]


def only_part(run: ShownRun, kind: str) -> RunFolder:
    """The one split and seed of a figure that shows one; UserError where there are several."""
    if len(run.parts) != 1:
        raise UserError(f"plot {kind}: shows one split and seed, such as {run.parts[0].path}")
    return run.parts[0]
