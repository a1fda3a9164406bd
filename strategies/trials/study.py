"""The trials of a search as a study of Optuna, which its dashboard opens: `optuna-dashboard RUN/optuna.journal`.

The history of the run is what counts: a search that goes on writes the study anew from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nas_osr.files.storage import file_errors
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.architectures.decoding import name_cell
from nas_osr.search_spaces.space import Space, all_paths
from nas_osr.strategies.base import SearchPlan
from nas_osr.strategies.trials.trial import Tried

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution

Direction = Literal["maximize", "minimize"]

STUDY_FILE = "optuna.journal"
STUDY_NAME = "search"
MAX_PATHS = 200  # of a branch that are a parameter of the study; a dashboard shows no more
FIGURES = ("f1", "auroc", "oscr", "accuracy", "parameters", "macs", "memory", "latency", "same_as", "follows")


class TrialStudy:
    """The study in a run folder, without trials.

    Args:
        folder: the run's; None keeps nothing.
        plan: of the search.
        directions: of the objectives, as Optuna says it.
    """

    def __init__(self, folder: Path | None, plan: SearchPlan, directions: Sequence[Direction]) -> None:
        self.plan, self.path, self.study = plan, None if folder is None else folder / STUDY_FILE, None
        if self.path is not None:
            with file_errors(self.path, "write"):
                for file in self.path.parent.glob(f"{STUDY_FILE}*"):  # a lock, too
                    file.unlink()
                self.study = open_study(self.path, directions)

    def tell(self, done: Tried, objectives: Callable[[Tried], Sequence[float]]) -> None:
        """Add a trial; one that was trained for fewer epochs than the search's is pruned. Raises UserError."""
        if self.study is None or self.path is None:
            return
        from optuna.trial import TrialState, create_trial

        record, whole = done.record, self.plan.weights.epochs
        epochs = record.get("trained_epochs", whole)
        parameters, distributions = describe_choices(done.architecture)
        trial = create_trial(
            state=TrialState.COMPLETE if epochs == whole else TrialState.PRUNED,
            values=objectives(done) if epochs == whole else None,
            params=parameters,
            distributions=distributions,
            intermediate_values={epochs: done.score},
            user_attrs={name: record[name] for name in FIGURES if record.get(name) is not None},
        )
        with file_errors(self.path, "write"):
            self.study.add_trial(trial)


def open_study(path: Path, directions: Sequence[Direction]) -> Study:
    """A new study in a file, made in silence."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    said = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        storage = JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path))))
        return optuna.create_study(storage=storage, study_name=STUDY_NAME, directions=list(directions))
    finally:
        optuna.logging.set_verbosity(said)


def describe_choices(architecture: Architecture) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
    """The choices of an architecture as the parameters of a trial, and what each is chosen from."""
    from optuna.distributions import CategoricalDistribution

    found = {name: (value, candidates) for name, value, candidates in list_choices(architecture)}
    parameters = {name: value for name, (value, _) in found.items()}
    return parameters, {name: CategoricalDistribution(candidates) for name, (_, candidates) in found.items()}


def list_choices(architecture: Architecture) -> list[tuple[str, Any, Sequence[Any]]]:
    """Name, value and candidates of each: the paths, the operations on them, and what concerns the whole network."""
    space: Space = architecture.space
    found: list[tuple[str, Any, Sequence[Any]]] = []
    for scale, branch in architecture.branches.items():
        paths = all_paths(space.layers, scale)
        if len(paths) <= MAX_PATHS:
            found.append((f"path to {scale}", show_path(branch.path), [show_path(path) for path in paths]))
    for cell, operation in architecture.chosen_cells().items():
        found.append((f"cell {name_cell(cell)}", operation, space.selectable))
    return found + [(name, architecture.choices[name], candidates) for name, candidates in space.choices.items()]


def show_path(path: Sequence[int]) -> str:
    """A path as text."""
    return "-".join(map(str, path))
