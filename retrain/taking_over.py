"""What a retraining takes over from the search that found its architecture: what was searched for.

That is which images (protocol, known classes, split, data folder, limit), what is learned (objective with its settings
and outliers), how it is judged (rule with its settings), and the preset. Each option that is given wins. Classes are
taken over as a whole: where another protocol, or one of family, known and class_seed is given, none of the others is.
Settings are taken over as far as the user had set them: what the preset and the paper fix for a search, they fix anew
for a retraining.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from nas_osr.configuration import make_request, parse_range
from nas_osr.errors import UserError
from nas_osr.files.paths import user_path
from nas_osr.files.storage import read_config
from nas_osr.objectives import objective_class, resolve_objective_config
from nas_osr.objectives.base import Objective
from nas_osr.plain import plain
from nas_osr.plans import given
from nas_osr.requests import DataOptions, ScheduleOptions, name_former_classes
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.runs.names import FRONT_FOLDER, is_run_folder
from nas_osr.scoring import rule_class
from nas_osr.search_spaces.architectures.references import load_architecture, published_names
from nas_osr.search_spaces.presets import get_preset

logger = logging.getLogger(__name__)

CLASSES = ("family", "known", "unknown", "class_seed", "splits")  # what makes a protocol's known classes
DATA = tuple(item.name for item in fields(DataOptions)) + ("splits",)
JUDGED = ("rule", "rule_config")
LEARNED = ("objective", "objective_config", "outliers")


def take_over(request: RetrainRequest, searched: Mapping[str, Any], where: str) -> RetrainRequest:
    """The request with what it leaves open from the search of its architecture; a line says what.

    Arguments and UserError are those of `fill_open`, whose `searched` and `where` `read_origin` finds.
    """
    filled = fill_open(request, searched, where)
    taken = describe_difference(request, filled)
    if taken:
        logger.warning("%s: taken over: %s", where, ", ".join(taken))
    return filled


def read_origin(request: RetrainRequest) -> tuple[str, Mapping[str, Any]]:
    """Where it is recorded what the architecture of a request was searched for, and the record.

    Of a run folder, or of an architecture file in one or on its front, config.yaml; of another file its own entry
    `found`. Published and random architectures, values, networks, and what is not there have none. Raises UserError
    when a file is broken.
    """
    reference = request.architecture
    if request.network is not None or not isinstance(reference, str) or reference in published_names():
        return "", {}
    path = user_path(reference)
    file = path / "architecture.json" if path.is_dir() else path
    if not file.is_file():
        return "", {}
    on_front = file.parent.name == FRONT_FOLDER and file.stem.startswith("trial-")
    run = file.parent.parent if on_front else file.parent
    config = run / "config.yaml"
    if (on_front or file.stem == "architecture") and is_run_folder(run) and config.is_file():
        return str(config), read_config(config)
    return str(file), load_architecture(file).found


def fill_open(request: RetrainRequest, searched: Mapping[str, Any], where: str) -> RetrainRequest:
    """The request with its open fields filled from a search's record.

    Args:
        searched: config.yaml of a run, or what `Architecture.found` says of one; empty where there is none.
        where: its file, for messages.

    Raises:
        UserError: the record is not one, names a plug-in that is not loaded, or sets something class by class that is
            asked for other classes.
    """
    if not searched:
        return request
    search = read_request(searched, where)
    values = {"preset": search.preset, **data_to_take(request, search)}
    filled = replace(request, **{name: value for name, value in values.items() if getattr(request, name) is None})
    if values.get("skip_broken"):  # a switch, which is never open
        filled = replace(filled, skip_broken=True)
    if search.objective is None or request.objective not in (None, search.objective):
        return filled
    try:  # nothing in a run folder causes an import: what the user has not named must be loaded
        kind = objective_class(search.objective, import_plugins=request.objective is not None)
        if request.rule is None and search.rule is not None:
            rule_class(search.rule, import_plugins=False)
    except UserError as error:
        raise UserError(f"{where}: {error}, or give another --objective or --rule") from None
    filled = replace(filled, objective=search.objective)
    if request.rule in (None, search.rule):
        filled = replace(filled, rule=search.rule, rule_config={**search.rule_config, **request.rule_config})
    if not search.objective_config:
        return filled
    return take_over_settings(filled, search, kind, "search" if "strategy" in searched else "retrain", where)


def read_request(searched: Mapping[str, Any], where: str) -> RetrainRequest:
    """What a record says of the fields that can be taken over; the others stay open. Raises UserError."""
    searched = name_former_classes(RetrainRequest, searched, where)
    values = {name: searched[name] for name in (*DATA, *LEARNED, *JUDGED, "preset") if name in searched}
    if "split" in searched:
        values["splits"] = str(searched["split"])
    return make_request(RetrainRequest, values, where)


def data_to_take(request: RetrainRequest, search: RetrainRequest) -> dict[str, Any]:
    """Which images: all that the search says of the same protocol; of another one the folder of all data sets."""
    if search.protocol is None or request.protocol not in (None, search.protocol):
        return {} if "folder" in (request.protocol, search.protocol) else {"data_dir": search.data_dir}
    own_classes = any(getattr(request, name) is not None for name in ("family", "known", "class_seed"))
    return {name: getattr(search, name) for name in DATA if not (own_classes and name in CLASSES)}


def take_over_settings(
    request: RetrainRequest, search: RetrainRequest, kind: type[Objective], phase: str, where: str
) -> RetrainRequest:
    """The request with the settings of the search's objective, and its outliers where these settings need them.

    Args:
        request: filled but for them.
        search: its objective_config is complete, as a run records it.
        kind: its objective.
        phase: "search" or "retrain": what the record is of.
    """
    name, preset = given(request.objective, kind.name), get_preset(given(search.preset, ScheduleOptions.preset))
    source = replace(search, data_dir=given(request.data_dir, search.data_dir))
    protocol = source.published_protocol(parse_range("splits", given(search.splits, "0"))[0])
    fixed = resolve_objective_config(name, preset.objective_settings.get(name, {}), protocol, phase)
    usual = plain(asdict(fixed), where)
    gone = [key for key in search.objective_config if key not in usual]
    if gone:
        logger.warning("%s: left out, since %s has no such setting any more: %s", where, name, ", ".join(gone))
    own = {key: value for key, value in search.objective_config.items() if key in usual and value != usual[key]}
    own |= request.objective_config
    settings = resolve_objective_config(name, own, protocol, "retrain")
    if any(getattr(request, option) != getattr(search, option) for option in ("protocol", *CLASSES)):
        of_one = [kind.select_classes(settings, [label], protocol.num_known) for label in range(protocol.num_known)]
        for key in own.keys() - request.objective_config.keys():
            if any(getattr(one, key) != getattr(of_one[0], key) for one in of_one):
                raise UserError(f"{where}: {key} differs between classes: give --objective_config.{key} for these ones")
    outliers = search.outliers if kind.needs_outliers(settings) else None
    return replace(request, objective_config=own, outliers=given(request.outliers, outliers))


def describe_difference(request: RetrainRequest, filled: RetrainRequest) -> list[str]:
    """Each option that differs between the two, with its value in the second."""
    taken = []
    for item in fields(RetrainRequest):
        before, after = getattr(request, item.name), getattr(filled, item.name)
        if isinstance(after, dict):
            taken += [f"{item.name}.{key} {after[key]}" for key in after if key not in before]
        elif before != after:
            taken.append(f"{item.name} {after}")
    return taken
