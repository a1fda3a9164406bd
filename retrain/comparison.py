"""Retrained runs side by side, and the published figures of their protocols."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from nas_osr.configuration import parse_range
from nas_osr.data.protocols import REHEARSAL, rename_former_names
from nas_osr.errors import UserError
from nas_osr.files.paths import user_path
from nas_osr.runs.names import is_run_folder
from nas_osr.runs.run_folder import RunFolder
from nas_osr.search_spaces import paper
from nas_osr.search_spaces.architectures.references import published

METRICS = ("auroc", "oscr", "macro_f1", "macro_f1_harmonic", "closed_set_accuracy")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a comparison: a retraining under one scoring rule and unknown source, or a published figure."""

    method: str
    "objective, rule and network; of a published one its name."
    protocol: str
    """its name; "NAME against SOURCE" or FOLDER where others play the unknown; "NAME, 20 images a class" of so many."""
    family: str | None
    "family of the class splits; None where it is not known."
    published: bool = False
    "whether the figures are from a paper."
    source: str
    "the run's folder, or the paper."
    rule: str | None = None
    "the scoring rule; None of a published one."
    label: str = ""
    "of metrics-LABEL.json; empty for metrics.json, and of a published one."
    parts: str | None = None
    'how many splits and seeds, e.g. "5 x 1"; None of a published one.'
    incomplete: bool = False
    "whether splits or seeds that were asked for are missing."
    parameters: int | None = None
    "of the network; None where they are not known."
    macs: int | None = None
    "of the network, likewise."
    metrics: Mapping[str, Mapping[str, Any]]
    """by name, {"mean", "std", "n"} as `mean_and_spread` gives them, of a run with "std_splits" and "std_seeds" as
    `spread_apart` does; shares in [0, 1]."""


@dataclass
class Evaluated:
    """One split and seed: its configuration, and what each of its metrics files holds, by label."""

    config: dict[str, Any]
    results: dict[str, dict[str, Any]]


def find_rows(paths: Sequence[str | Path], names: Sequence[str] | None = None) -> list[Row]:
    """The rows of retrainings, in the order in which they are named; a folder of several is searched.

    Args:
        names: what the methods are called, one for each path; with its rule where a run was judged by several.

    Raises:
        UserError: a folder does not exist or holds no evaluated retraining, the images of a protocol are not the same
            in all of them, or there is not one retraining for each name.
    """
    if names and len(names) != len(paths):
        raise UserError(f"--name: {len(names)} names for {len(paths)} runs; give one for each, as A,B")
    rows: list[Row] = []
    seen: set[Path] = set()
    met: dict[str, tuple[str, Path]] = {}
    for place, path in enumerate(map(user_path, paths)):
        name = names[place] if names else None
        folders = [folder for folder in find_runs(path) if folder.resolve() not in seen]
        seen |= {folder.resolve() for folder in folders}
        if name and len(folders) != 1:
            raise UserError(f"{path}: holds {len(folders)} further retrainings, and has one name, {name}: name each")
        own = [row for folder in folders for row in read_rows(folder, met)]
        rows += own if name is None else rename_rows(own, name)
    return tell_apart(rows, folders=not names)


def tell_apart(rows: Sequence[Row], *, folders: bool = True) -> list[Row]:
    """The rows, where those that would be called the same have in brackets what differs.

    Of one run that is the file of an evaluation under other conditions than its own, and of different runs as much of
    their folder as differs; that is left out without `folders`.
    """
    same: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        same.setdefault((row.method, row.protocol), []).append(row)
    found = []
    for row in rows:
        alike = same[row.method, row.protocol]
        marks = [_ending(row, alike)] if folders else []
        if row.label and any(other is not row and other.source == row.source for other in alike):
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
    """The rows of one retraining under a name of the user's, with the rule where there are several."""
    rules = {row.rule for row in rows}
    return [replace(row, method=f"{name}, {row.rule}" if len(rules) > 1 else name) for row in rows]


def find_runs(path: Path) -> list[Path]:
    """The retrainings that a folder is, or holds at any depth. Raises UserError when there is none."""
    if not path.is_dir():
        raise UserError(f"{path}: no such folder")
    if is_retraining(path):
        return [path]
    found: list[Path] = []
    for entry in sorted(path.rglob("provenance.json")):
        folder = entry.parent
        if is_retraining(folder) and not any(outer in folder.parents for outer in found):
            found.append(folder)
    if not found:
        raise UserError(f"{path}: no evaluated retraining in it: compare reads what nas-osr retrain leaves")
    return found


def is_retraining(path: Path) -> bool:
    """Whether a folder is a retraining, or one part of one, that has results."""
    return is_run_folder(path) and any(any(path.glob(pattern)) for pattern in ("metrics.json", "split-*/metrics.json"))


def check_images(folder: Path, part: Evaluated, met: dict[str, tuple[str, Path]]) -> None:
    """UserError where results on the same classes come from other images. Older results do not tell and pass.

    `met` has by classes and kind the fingerprint that was met first, and where; it is filled.
    """
    for result in part.results.values():
        protocol = {**rename_former_names(result["protocol"]), "limit_per_class": part.config.get("limit_per_class")}
        protocol["unknown_folder"] = name_folder(result)
        for kind, fingerprint in result.get("data_fingerprints", {}).items():
            key = json.dumps([kind, protocol], sort_keys=True)
            before, where = met.setdefault(key, (fingerprint, folder))
            if before != fingerprint:
                raise UserError(
                    f"{folder} and {where} are of the same classes, but their {kind} images differ: the data set "
                    "has changed between them; compare them apart, or evaluate both with the same --data_dir"
                )


def read_rows(folder: Path, met: dict[str, tuple[str, Path]]) -> list[Row]:
    """A row for each rule and unknown source under which a retraining, or one part of one, has been evaluated.

    Raises UserError when a file is broken, or the images are not those that were `met`; see `check_images`.
    """
    files = sorted(folder.glob("split-*/metrics.json")) or [folder / "metrics.json"]
    parts = [read_part(file.parent) for file in files]
    for file, part in zip(files, parts, strict=True):
        check_images(file.parent, part, met)
    expected = 1 if (folder / "metrics.json").is_file() else count_parts(RunFolder(folder).read_config())
    labels = dict.fromkeys(label for part in parts for label in part.results)
    return [
        make_row(folder, [part for part in parts if label in part.results], label, expected) for label in sorted(labels)
    ]


def read_part(folder: Path) -> Evaluated:
    """One split and seed from its folder. Raises UserError when a file is broken."""
    run = RunFolder(folder)
    config = check_config(run.read_config(), folder / "config.yaml")
    files = {file.stem.removeprefix("metrics").removeprefix("-"): file for file in sorted(folder.glob("metrics*.json"))}
    return Evaluated(config, {label: check_result(run.read_json(file.name), file) for label, file in files.items()})


def check_result(result: dict[str, Any], file: Path) -> dict[str, Any]:
    """What a metrics file holds, if it is what `nas-osr retrain` and `evaluate` write; UserError otherwise."""
    metrics, protocol = result.get("metrics"), result.get("protocol")
    sizes = [result.get("parameters", ""), result.get("macs")]
    sound = (
        isinstance(result.get("rule"), str)
        and isinstance(metrics, dict)
        and all(value is None or (type(value) in (int, float) and 0 <= value <= 1) for value in metrics.values())
        and isinstance(protocol, dict)
        and all(isinstance(protocol.get(name), str) for name in ("name", "family", "unknown_source"))
        and isinstance(protocol.get("unknown"), list)
        and all(size is None or (type(size) is int and 0 <= size < 1 << 63) for size in sizes)
        and isinstance(result.get("data_fingerprints", {}), dict)
        and isinstance(result.get("unknown_folder"), str | None)
    )
    if not sound:
        raise UserError(f"{file}: not the metrics of a retraining")
    return result


def check_config(config: dict[str, Any], file: Path) -> dict[str, Any]:
    """A configuration, if it is that of a retraining as far as a row needs it; UserError otherwise."""
    sound = isinstance(config.get("objective"), str) and {"splits", "seeds", "architecture"} <= config.keys()
    architecture = config.get("architecture")
    if isinstance(architecture, Mapping):
        described = (architecture.get(name, {}) for name in ("found", "space"))
        sound = sound and "branches" in architecture and all(isinstance(part, Mapping) for part in described)
    if not sound:
        raise UserError(f"{file}: not the configuration of a retraining")
    return config


def name_folder(result: Mapping[str, Any]) -> str | None:
    """What the folder is called whose images played the unknown in place of the protocol's; None where none did."""
    folder = result.get("unknown_folder")
    return None if folder is None else Path(folder).name


def name_protocol(result: Mapping[str, Any], usual: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """The protocol of a result, as published figures have it, and what else the figures rest on.

    Args:
        result: what an evaluation has left.
        usual: the protocol of the run's own evaluation.
        config: of the run.
    """
    protocol = result["protocol"]
    name = str(protocol["name"])
    if protocol["family"] == REHEARSAL:
        name += " rehearsed"
    elif folder_name := name_folder(result):
        name += f" against {folder_name}"
    elif (protocol["unknown_source"], protocol["unknown"]) != (usual["unknown_source"], usual["unknown"]):
        name += f" against {protocol['unknown_source']}"
    if config.get("limit_per_class"):  # of the test images, too: the figures are not those of all
        name += f", {config['limit_per_class']} images a class"
    return name


def count_parts(config: Mapping[str, Any]) -> int:
    """How many splits and seeds a retraining's configuration asks for. Raises UserError."""
    splits, seeds = (parse_range("splits or seeds", config.get(name)) for name in ("splits", "seeds"))
    return len(splits) * len(seeds)


def make_row(folder: Path, parts: Sequence[Evaluated], label: str, expected: int) -> Row:
    """The row of the parts that were evaluated under one label, of as many as were `expected`.

    Raises UserError where they were evaluated against the images of several folders.
    """
    from nas_osr.metrics.resampling import mean_and_spread, spread_apart  # NumPy

    results = [part.results[label] for part in parts]
    first, config = results[0], parts[0].config
    usual = parts[0].results.get("", first)["protocol"]
    places = [(str(part.config["splits"]), str(part.config["seeds"])) for part in parts]
    splits, seeds = map(set, zip(*places, strict=True))
    metrics = mean_and_spread([result["metrics"] for result in results])
    for metric, figure in metrics.items():
        values = (result["metrics"].get(metric) for result in results)
        between, inside = spread_apart(dict(zip(places, values, strict=True)))
        figure |= {"std_splits": between, "std_seeds": inside}
    against = {result["unknown_folder"] for result in results if result.get("unknown_folder") is not None}
    if len(against) > 1:
        raise UserError(
            f"{folder}: its parts were evaluated as {label} against several folders, {' and '.join(sorted(against))}: "
            "evaluate it against one"
        )
    return Row(
        method=f"{config['objective']}, {first['rule']}, {describe_network(config)}",
        protocol=name_protocol(first, usual, config),
        family=first["protocol"]["family"],
        source=str(folder),
        rule=first["rule"],
        label=label,
        metrics=metrics,
        parts=f"{len(splits)} x {len(seeds)}",
        parameters=first["parameters"],
        macs=first.get("macs"),
        incomplete=len(parts) < expected,
    )


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
