"""The chapter of a report that tells of a search."""

from __future__ import annotations

from typing import Any

from nas_osr.files.storage import read_records
from nas_osr.reports.page import Block, Chapter, DataTable, Facts, Passage, Remark
from nas_osr.reports.run_passages import (
    architecture_blocks,
    configuration,
    describe_ways,
    figure_or_reason,
    own_architecture,
)
from nas_osr.reports.sentences import as_sentence, list_names
from nas_osr.reports.training_curves import plot_history
from nas_osr.runs.run_folder import RunFolder
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.architectures.decoding import weights_from_record
from nas_osr.training.monitors import all_warnings

HISTORY = "Losses by term, scores, and of a search with weights alphas and betas along the chosen path."


def is_search(config: dict[str, Any]) -> bool:
    """Whether a configuration is that of a search."""
    return "strategy" in config


def search_chapter(run: RunFolder, name: str) -> Chapter:
    """What a search was asked, what it found, and how it went; also of one that has not finished. Raises UserError."""
    config, history = run.read_config(), run.read_history()
    architecture = own_architecture(run.path) if run.finished else None
    passages = [Passage("What was asked", [Facts(asked_of_search(config))])]
    if architecture is not None:
        record = found_record(architecture, history)
        weights = weights_from_record(record, architecture.space, str(run.path / "history.jsonl")) if record else None
        passages.append(Passage("The network found", architecture_blocks(architecture, weights)))
    blocks: list[Block] = [figure_or_reason("Course of the search", HISTORY, plot_history, run.path)]
    warnings = all_warnings(history)
    if warnings:
        lines = [[kind, message] for kind, message in warnings.items()]
        blocks.append(DataTable("Warnings of its monitors", ["kind", "what"], lines))
    elif history:
        blocks.append(Remark("Its monitors have nothing to say against it."))
    passages += [Passage("How it went", blocks), configuration(run)]
    return Chapter("search", name, search_answer(run, config, architecture, len(history)), passages)


def asked_of_search(config: dict[str, Any]) -> dict[str, str]:
    """The settings that tell a search from others."""
    held_out = config.get("pseudo_unknown")
    facts = {
        "protocol": f"{config.get('protocol')}, {config.get('family')} split {config.get('split')}",
        "strategy": config.get("strategy"),
        "classes that play the unknown": list_names(list(map(str, held_out))) if held_out else None,
        "objective": config.get("objective"),
        "scoring rule": config.get("rule"),
        "space": f"{config.get('layers')} layers, {config.get('channels')} channels",
        "operations": list_names(list(map(str, config.get("operations") or []))),
        "preset": config.get("preset"),
        "epochs": config.get("epochs"),
        "seed": config.get("seed"),
    }
    return {name: str(value) for name, value in facts.items() if value not in (None, "")}


def found_record(architecture: Architecture, history: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The record in which an architecture was found."""
    epoch = architecture.found.get("epoch")
    return next((record for record in history if record.get("epoch") == epoch), None)


def search_answer(run: RunFolder, config: dict[str, Any], architecture: Architecture | None, records: int) -> str:
    """What it found, in one sentence."""
    if architecture is None:
        return f"This search has not finished: {records} of {config.get('epochs')} epochs are done."
    found = architecture.found
    trial = any(record.get("phase") == "trial" for record in run.read_history()[:1])
    ways = describe_ways(architecture)
    seconds = sum(float(record.get("seconds", 0.0)) for record in read_records(run.path / "timing.jsonl"))
    score = f"F1 {found['F1']:.3f} over kept and held-out known classes" if "F1" in found else "no score"
    return as_sentence(
        f"the best network, of {'trial' if trial else 'epoch'} {found.get('epoch', 0) + 1} of {records}, has {score}: "
        f"{ways}; the search took {seconds:.0f} seconds"
    )
