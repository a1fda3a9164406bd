"""What a fit that is resumed reads in its folder again: what was chosen, how long it took, and what was reached."""

from __future__ import annotations

from typing import Any

from nas_osr.configuration import make_config
from nas_osr.deploy.fit_budget import SearchChoice, TrainingChoice
from nas_osr.errors import UserError
from nas_osr.runs.names import FIT_SEARCH, FIT_TRAINING
from nas_osr.runs.run_folder import RunFolder

CHOICE, SUMMARY = "choice.json", "summary.json"
NUMBER = (int, float)
REACHED: dict[str, Any] = {
    "out": str, "model": str, "known": list, "epochs": int, "metrics": dict, "intervals": dict, "test_images": dict,
    "training_images": dict, "seconds": NUMBER, "search": dict | None, "training": dict,
}  # fmt: skip
"What a summary has, and of which kind."
INSIDE: dict[str, dict[str, Any]] = {
    "test_images": {"known": int, "unknown": int},
    "metrics": dict.fromkeys(
        ("accepted_known", "closed_set_accuracy", "auroc", "rejected_unknown"), int | float | None
    ),
}


def read_choice(run: RunFolder) -> dict[str, Any]:
    """What `choice.json` holds: search and training, as `recorded_choice` has them, and the seconds that it took.

    Raises:
        UserError: the file is missing or broken, or not what a fit leaves.
    """
    file, choice = run.path / CHOICE, run.read_json(CHOICE)
    seconds, searched, trained = choice.get("seconds"), choice.get("search"), choice.get("training")
    sound = isinstance(seconds, NUMBER) and not searched is trained is None
    if not (sound and all(isinstance(part, dict | None) for part in (searched, trained))):
        raise UserError(f"{file}: not the choice of a fit: fit anew, with --overwrite")
    if searched is not None:
        make_config(f"{file}: search", SearchChoice, searched)
    if trained is not None:
        make_config(f"{file}: training", TrainingChoice, trained)
    return choice


def read_summary(run: RunFolder) -> dict[str, Any]:
    """What `summary.json` of a finished fit holds. UserError: the file is missing or broken, or not of a fit."""
    summary = run.read_json(SUMMARY)
    wrong = [name for name, kind in REACHED.items() if not isinstance(summary.get(name, ...), kind)]
    for name, kinds in INSIDE.items() if not wrong else ():
        wrong += [name for inner, kind in kinds.items() if not isinstance(summary[name].get(inner, ...), kind)]
    if wrong:
        raise UserError(
            f"{run.path / SUMMARY}: not the summary of a fit, by its {wrong[0]}: fit anew, with --overwrite"
        )
    if summary["search"] is not None:
        make_config(f"{run.path / SUMMARY}: search", SearchChoice, summary["search"])
    return summary


def spent_before(run: RunFolder, part: str, choice: dict[str, Any]) -> float:
    """Seconds of a fit that is resumed: until it had chosen, and of all epochs since.

    Args:
        part: the folder of the split and seed in the training's.

    Raises:
        UserError: a record of the time is broken.
    """
    seconds = float(choice["seconds"])
    for folder in (run.path / FIT_SEARCH, run.path / FIT_TRAINING / part):
        for record in RunFolder(folder).read_timing():
            own = record.get("seconds", 0.0)
            if not isinstance(own, NUMBER):
                raise UserError(f"{folder / 'timing.jsonl'}: not what a run leaves: its seconds are {own!r}")
            seconds += own
    return seconds
