"""What retrainings and their evaluations have left in their folders."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from nas_osr.configuration import parse_range
from nas_osr.data.protocols import REHEARSAL, rename_former_names
from nas_osr.errors import UserError
from nas_osr.files.paths import fitting, is_pattern
from nas_osr.runs.names import is_run_folder
from nas_osr.runs.run_folder import RunFolder


@dataclass
class Evaluated:
    """One split and seed."""

    folder: Path
    "its own."
    run: Path
    "the folder of its retraining, or its own where it was asked for by itself."
    config: dict[str, Any]
    results: dict[str, dict[str, Any]]
    "what each of its metrics files holds, by label."

    @property
    def place(self) -> tuple[str, str]:
        """Its split and seed, whatever its folder is called; see `asked_places`."""
        return place_of(self.config, self.config["splits"], self.config["seeds"])

    def protocol(self, label: str = "") -> str:
        """See `name_protocol`; of its own evaluation without a label."""
        own = self.results.get("", next(iter(self.results.values())))
        return name_protocol(self.results.get(label, own), own["protocol"], self.config)

    def family(self, label: str = "") -> str:
        """Of the class splits."""
        return str(self.results[label]["protocol"]["family"])


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


def find_runs(path: Path) -> list[Path]:
    """The retrainings that a folder is, or holds at any depth; or those of a pattern such as runs/plain-*, by name.

    Raises UserError when there is none.
    """
    if is_pattern(path):
        found = list(dict.fromkeys(run for folder in fitting(path) if folder.is_dir() for run in _runs_in(folder)))
    elif path.is_dir():
        found = _runs_in(path)
    else:
        raise UserError(f"{path}: no such folder")
    if not found:
        raise UserError(f"{path}: no evaluated retraining in it: compare reads what nas-osr retrain leaves")
    return found


def _runs_in(path: Path) -> list[Path]:
    if is_retraining(path):
        return [path]
    found: list[Path] = []
    for entry in sorted(path.rglob("provenance.json")):
        folder = entry.parent
        if is_retraining(folder) and not any(outer in folder.parents for outer in found):
            found.append(folder)
    return found


def is_retraining(path: Path) -> bool:
    """Whether a folder is a retraining, or one part of one, that has results."""
    return is_run_folder(path) and any(any(path.glob(pattern)) for pattern in ("metrics.json", "split-*/metrics.json"))


def check_images(part: Evaluated, met: dict[str, tuple[str, Path]]) -> None:
    """UserError where results on the same classes come from other images. Older results do not tell and pass.

    `met` has by classes and kind the fingerprint that was met first, and where; it is filled.
    """
    for result in part.results.values():
        protocol = {**rename_former_names(result["protocol"]), "limit_per_class": part.config.get("limit_per_class")}
        protocol["unknown_folder"] = name_folder(result)
        for kind, fingerprint in result.get("data_fingerprints", {}).items():
            key = json.dumps([kind, protocol], sort_keys=True)
            before, where = met.setdefault(key, (fingerprint, part.folder))
            if before != fingerprint:
                raise UserError(
                    f"{part.folder} and {where} are of the same classes, but their {kind} images differ: the data set "
                    "has changed between them; compare them apart, or evaluate both with the same --data_dir"
                )


def check_distinct(parts: Iterable[Evaluated]) -> None:
    """UserError where two parts of one method have the same split and seed."""
    met: dict[tuple[str, str], Path] = {}
    for part in parts:
        before = met.setdefault(part.place, part.folder)
        if before != part.folder:
            raise UserError(
                f"{before} and {part.folder} both have split {part.place[0]}, seed {part.place[1]}, and one name "
                "stands for one method: name each"
            )


def finished_parts(folder: Path) -> list[Evaluated]:
    """The splits and seeds of a retraining, or of one part of one, that have results. Raises UserError."""
    files = sorted(folder.glob("split-*/metrics.json")) or [folder / "metrics.json"]
    return [read_part(file.parent, folder) for file in files]


def read_part(folder: Path, run: Path) -> Evaluated:
    """One split and seed from its folder, which is of that run. Raises UserError when a file is broken."""
    own = RunFolder(folder)
    config = check_config(own.read_config(), folder / "config.yaml")
    files = {file.stem.removeprefix("metrics").removeprefix("-"): file for file in sorted(folder.glob("metrics*.json"))}
    results = {label: check_result(own.read_json(file.name), file) for label, file in files.items()}
    return Evaluated(folder, run, config, results)


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


def place_of(config: Mapping[str, Any], split: object, seed: object) -> tuple[str, str]:
    """A split and a seed of a configuration; of a rehearsal each choice of classes makes a split of its own."""
    played = config.get("pseudo_unknown")
    return f"{split} without {', '.join(map(str, played))}" if played else str(split), str(seed)


def asked_places(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The splits and seeds that a retraining's configuration asks for. Raises UserError."""
    splits, seeds = (parse_range("splits or seeds", config.get(name)) for name in ("splits", "seeds"))
    return (place_of(config, split, seed) for split, seed in product(splits, seeds))
