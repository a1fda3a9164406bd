"""Retrained runs side by side, and the published figures of their protocols."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources
from itertools import chain, islice
from pathlib import Path
from typing import Any

from nas_osr.errors import UserError
from nas_osr.files.paths import user_path
from nas_osr.retrain.evaluated import Evaluated, asked_places, check_distinct, check_images, find_runs, finished_parts
from nas_osr.runs.run_folder import RunFolder
from nas_osr.search_spaces import paper
from nas_osr.search_spaces.architectures.references import published

MOST_PLACES = 100_000  # that a table looks for, whatever a file asks for
METRICS = ("auroc", "oscr", "macro_f1", "macro_f1_harmonic", "closed_set_accuracy")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a comparison: a method under one scoring rule and unknown source, or a published figure."""

    method: str
    "objective, rule and network; of a published one its name."
    protocol: str
    """its name; "NAME against SOURCE" or FOLDER where others play the unknown; "NAME, 20 images a class" of so many."""
    family: str | None
    "family of the class splits; None where it is not known."
    published: bool = False
    "whether the figures are from a paper."
    source: str
    "the run's folder, the first of several, or the paper."
    rule: str | None = None
    "the scoring rule; None of a published one."
    label: str = ""
    "of metrics-LABEL.json; empty for metrics.json, and of a published one."
    parts: str | None = None
    'how many splits and seeds, e.g. "5 x 1", or "3 of 2 x 2" where not all pairs are there; None of a published one.'
    incomplete: bool = False
    "whether splits or seeds that were asked for are missing."
    parameters: int | None = None
    "of the network, the mean of several; None where they are not known."
    macs: int | None = None
    "of the network, likewise."
    metrics: Mapping[str, Mapping[str, Any]]
    """by name, {"mean", "std", "n"} as `mean_and_spread` gives them, of a run with "std_splits" and "std_seeds" as
    `spread_apart` does; shares in [0, 1]."""


def find_rows(paths: Sequence[str | Path], names: Sequence[str] | None = None) -> list[Row]:
    """The rows of retrainings, in the order in which they are named; a folder of several is searched.

    Args:
        paths: folders, or patterns of folders such as "runs/plain-*".
        names: what the methods are called, one for each path; with its rule where a run was judged by several.
            Retrainings of one name are one method: their splits and seeds are put together, by protocol.

    Raises:
        UserError: a folder does not exist or holds no evaluated retraining, the images of a protocol are not the same
            in all of them, there is not one name for each path, or two of one name have the same split and seed.
    """
    if names and len(names) != len(paths):
        raise UserError(f"--name: {len(names)} names for {len(paths)} runs; give one for each, as A,B")
    methods: dict[str, list[Path]] = {}
    seen: set[Path] = set()
    for place, path in enumerate(map(user_path, paths)):
        folders = [folder for folder in find_runs(path) if folder.resolve() not in seen]
        seen |= {folder.resolve() for folder in folders}
        if names and not folders:
            raise UserError(f"{path}: is named twice; its second name is {names[place]}")
        for folder in folders:
            methods.setdefault(names[place] if names else str(folder), []).append(folder)
    rows: list[Row] = []
    met: dict[str, tuple[str, Path]] = {}
    for name, folders in methods.items():
        own = read_rows(folders, met)
        rows += rename_rows(own, name) if names else own
    return tell_apart(rows, folders=not names)


def tell_apart(rows: Sequence[Row], *, folders: bool = True) -> list[Row]:
    """The rows, where those that would be called the same have in brackets what differs.

    Of one method that is the file of an evaluation under other conditions than its own, and of different runs as much
    of their folder as differs; without `folders` rows of one name are of one method.
    """
    same: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        same.setdefault((row.method, row.protocol), []).append(row)
    found = []
    for row in rows:
        alike = same[row.method, row.protocol]
        marks = [_ending(row, alike)] if folders else []
        if row.label and any(other is not row and (not folders or other.source == row.source) for other in alike):
            marks.append(f"metrics-{row.label}.json")
        shown = ", ".join(filter(None, marks))
        found.append(replace(row, method=f"{row.method} ({shown})") if shown else row)
    return found


def _ending(row: Row, same: Sequence[Row]) -> str:
    """The shortest end of a row's folder that no other run has; nothing where it is the only run."""
    own = Path(row.source).resolve().parts
    others = [Path(other.source).resolve().parts for other in same if other.source != row.source]
    if not others:
        return ""
    length = next(n for n in range(1, len(own) + 1) if all(own[-n:] != other[-n:] for other in others) or n == len(own))
    return str(Path(*own[-length:]))


def rename_rows(rows: Sequence[Row], name: str) -> list[Row]:
    """The rows of one method under a name of the user's, with the rule where there are several."""
    rules = {row.rule for row in rows}
    return [replace(row, method=f"{name}, {row.rule}" if len(rules) > 1 else name) for row in rows]


def read_rows(folders: Sequence[Path], met: dict[str, tuple[str, Path]]) -> list[Row]:
    """A row for each rule and unknown source under which a method has been evaluated.

    Args:
        folders: its retrainings, or parts of one.
        met: what `check_images` has met.

    Raises:
        UserError: a file is broken, the images are not those that were met, or two parts have the same split and seed.
    """
    found: dict[tuple[str, ...], list[Evaluated]] = {}
    asked: dict[str, list[Iterator[tuple[str, str]]]] = {}  # by the protocol of the retraining's own evaluation
    for folder in folders:
        parts = finished_parts(folder)
        for part in parts:
            check_images(part, met)
            for label, result in part.results.items():
                found.setdefault((label, result["rule"], part.protocol(label), part.family(label)), []).append(part)
        alone = (folder / "metrics.json").is_file()
        places = iter([parts[0].place]) if alone else asked_places(RunFolder(folder).read_config())
        asked.setdefault(parts[0].protocol(), []).append(places)
    wanted = {protocol: set(islice(chain(*places), MOST_PLACES)) for protocol, places in asked.items()}
    rows = []
    for (label, *_), own in sorted(found.items(), key=lambda item: item[0][0]):
        check_distinct(own)
        missing = set().union(*(wanted[part.protocol()] for part in own)) - {part.place for part in own}
        rows.append(make_row(own, label, bool(missing)))
    return rows


def make_row(parts: Sequence[Evaluated], label: str, incomplete: bool) -> Row:
    """The row of the parts that were evaluated under one label, all or not of those that were asked for.

    Raises UserError where they were evaluated against the images of several folders.
    """
    from nas_osr.metrics.resampling import mean_and_spread, spread_apart  # NumPy

    results = [part.results[label] for part in parts]
    first, config = results[0], parts[0].config
    places = [part.place for part in parts]
    splits, seeds = (len(set(values)) for values in zip(*places, strict=True))
    metrics = mean_and_spread([result["metrics"] for result in results])
    for metric, figure in metrics.items():
        values = (result["metrics"].get(metric) for result in results)
        between, inside = spread_apart(dict(zip(places, values, strict=True)))
        figure |= {"std_splits": between, "std_seeds": inside}
    sources = list(dict.fromkeys(part.run for part in parts))
    against = {result["unknown_folder"] for result in results if result.get("unknown_folder") is not None}
    if len(against) > 1:
        raise UserError(
            f"{sources[0]}: its parts were evaluated as {label} against several folders, "
            f"{' and '.join(sorted(against))}: evaluate it against one"
        )
    whole = len(parts) == splits * seeds
    return Row(
        method=f"{config['objective']}, {first['rule']}, {describe_network(config)}",
        protocol=parts[0].protocol(label),
        family=first["protocol"]["family"],
        source=str(sources[0]) + (f" and {len(sources) - 1} more" if len(sources) > 1 else ""),
        rule=first["rule"],
        label=label,
        metrics=metrics,
        parts=f"{splits} x {seeds}" if whole else f"{len(parts)} of {splits} x {seeds}",
        parameters=mean_size([result["parameters"] for result in results]),
        macs=mean_size([result.get("macs") for result in results]),
        incomplete=incomplete,
    )


def mean_size(sizes: Sequence[int | None]) -> int | None:
    """The mean of networks' sizes, which are equal within a retraining; None where one is not known."""
    known = [size for size in sizes if size is not None]
    return round(sum(known) / len(known)) if len(known) == len(sizes) else None


def describe_network(config: Mapping[str, Any]) -> str:
    """The network of a retraining: a baseline's name, "published", or how its architecture was found; and its stem."""
    if config.get("network"):
        return str(config["network"])
    architecture = config["architecture"]
    if not isinstance(architecture, Mapping):
        return str(architecture)
    found = architecture.get("found", {})
    seed = found.get("seed")
    name = f"{found.get('strategy', 'architecture')}{'' if seed is None else f' seed {seed}'}"
    if architecture["branches"] == published().to_dict()["branches"]:
        name = "published"
    stem = architecture.get("choices", {}).get("stem", architecture.get("space", {}).get("stem", paper.STEM))
    return name if stem == paper.STEM else f"{name}, {stem} stem"


@lru_cache(maxsize=1)
def published_rows() -> tuple[Row, ...]:
    """Every published figure, one row for each method, paper and protocol."""
    content = json.loads((resources.files("nas_osr.retrain") / "published_results.json").read_text(encoding="utf-8"))
    metrics: dict[tuple[str, str, str, str | None], dict[str, Any]] = {}
    for table in content["tables"]:
        for item in table["methods"]:
            for protocols, percent in zip(table["protocols"], item["percent"], strict=True):
                for protocol in protocols if percent is not None else ():
                    figures = metrics.setdefault((item["method"], protocol, item["source"], item["family"]), {})
                    figures[table["metric"]] = {"mean": percent / 100.0, "std": None, "n": None}
    return tuple(
        Row(method=method, protocol=protocol, family=family, source=source, metrics=figures, published=True)
        for (method, protocol, source, family), figures in metrics.items()
    )


def with_published(rows: Sequence[Row], metrics: Iterable[str]) -> list[Row]:
    """The rows by protocol, each protocol followed by what is published on it for at least one of the metrics."""
    wanted = set(metrics)
    together = []
    for protocol in dict.fromkeys(row.protocol for row in rows):
        together += [row for row in rows if row.protocol == protocol]
        together += [row for row in published_rows() if row.protocol == protocol and wanted & row.metrics.keys()]
    return together


def orientation_only(row: Row, rows: Sequence[Row]) -> bool:
    """Whether a published row's class splits are of another family, or an unknown one, than a run's beside it."""
    families = {other.family for other in rows if other.protocol == row.protocol and not other.published}
    return row.published and families != {row.family}
