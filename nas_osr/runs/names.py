"""Which files are a run's: what may be written into a run folder, and what `--overwrite` removes from one."""

from __future__ import annotations

import fnmatch
from pathlib import Path

from nas_osr.files.locks import LOCK, LOCKS
from nas_osr.files.storage import file_errors
from nas_osr.files.text import read_object

PROGRAM = "nas-osr"
RUN_SCHEMA = 1
CHECKPOINT = "checkpoint.pt"
PREVIOUS_CHECKPOINT = "checkpoint.previous.pt"
LATENCY_FILE = "latency.json"
WARM_START_FILE = "warm_start.json"
FRONT_FILE = "front.json"

# Names that a run may write: `--overwrite` removes these and nothing else.
RUN_FILES = (
    *LOCKS,
    ".*.tmp",
    "config.yaml",
    "provenance.json",
    "history.jsonl",
    "timing.jsonl",
    "architecture.*",
    CHECKPOINT,
    PREVIOUS_CHECKPOINT,
    "metrics.json",
    "metrics-*.json",
    "analysis-*.json",
    "analysis-*.npz",
    "predictions.csv",
    "predictions-*.csv",
    "embeddings.npz",
    "embeddings-*.npz",
    "summary.*",
    "choice.json",
    "logger.json",
    FRONT_FILE,
    LATENCY_FILE,
    WARM_START_FILE,
    "table.jsonl.xz",
    "optuna.journal*",
    "trial-*.claim",
    "events.out.tfevents.*",
)
FIT_SEARCH, FIT_TRAINING = "fit-search", "fit-training"
RUN_FOLDERS = ("split-*", FIT_SEARCH, FIT_TRAINING)  # runs inside a run
TRIALS_FOLDER = "trials"  # what a search keeps of trials that may go on, or have ended early
FRONT_FOLDER = "front"  # the architectures of a search's trials that no other beats
TRIAL_FILES = ("trial-*", ".*.tmp")
MODEL_FOLDER = "model"  # what a retraining leaves to be used
MODEL_FILES = ("model.json", "model.safetensors", "model.onnx", "model.int8.onnx", "README.md", ".*.tmp")
# what is a run's in its own folders
OWN_FOLDERS = {MODEL_FOLDER: MODEL_FILES, TRIALS_FOLDER: TRIAL_FILES, FRONT_FOLDER: TRIAL_FILES}


def is_run_folder(path: Path) -> bool:
    """Whether a folder is a run of ours, or one that was killed before it began.

    Raises UserError when its provenance is broken.
    """
    if (path / "provenance.json").is_file():
        return read_object(path / "provenance.json").get("program") == PROGRAM
    names = [entry.name for entry in path.iterdir()]
    return LOCK in names and all(matches(name, (*LOCKS, ".*.tmp", "config.yaml")) for name in names)


def clear_run_folder(path: Path) -> None:
    """Remove the files of a run and the runs inside it, and nothing else; the lock and provenance.json stay."""
    with file_errors(path, "clear"):
        for entry in path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                if matches(entry.name, RUN_FOLDERS) and is_run_folder(entry):
                    clear_run_folder(entry)
                    for name in (*LOCKS, "provenance.json"):
                        (entry / name).unlink(missing_ok=True)
                elif entry.name in OWN_FOLDERS:
                    for file in entry.iterdir():
                        if matches(file.name, OWN_FOLDERS[entry.name]):
                            file.unlink()
                else:
                    continue
                if not any(entry.iterdir()):
                    entry.rmdir()
            elif entry.name not in (*LOCKS, "provenance.json") and matches(entry.name, RUN_FILES):
                entry.unlink()


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a file name fits one of the patterns."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
