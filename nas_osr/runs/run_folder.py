"""The run folder: everything that a run leaves behind, written whole or not at all.

    with RunFolder.create(out, overwrite=False, resume=False) as run:
        run.provenance(command, config, seed, data_fingerprint)
        state = run.load_checkpoint()                  # None when nothing is resumed
        run.truncate_history(epochs_done)
        ...
        run.append_history(record); run.append_timing(timing); run.save_checkpoint(state)
        run.write_json("metrics.json", metrics)
        run.finish()

`provenance.json`, `timing.jsonl` and `latency.json` alone hold times: other files of equal runs are equal bytes.
Readers need no lock: `RunFolder.open(path)`. Nothing in a run folder is ever executed or imported.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from nas_osr.errors import UserError
from nas_osr.files.locks import LOCKS, FolderLock, lock_folder
from nas_osr.files.paths import user_path
from nas_osr.files.storage import (
    append_line,
    file_errors,
    json_line,
    read_config,
    read_records,
    replace_file,
)
from nas_osr.files.text import read_object
from nas_osr.files.yaml_text import format_yaml
from nas_osr.plain import plain
from nas_osr.runs import provenance as environment
from nas_osr.runs.checkpoints import read_checkpoint
from nas_osr.runs.names import (
    CHECKPOINT,
    PREVIOUS_CHECKPOINT,
    PROGRAM,
    RUN_FILES,
    RUN_SCHEMA,
    clear_run_folder,
    is_run_folder,
    matches,
)
from nas_osr.runs.resumption import check_same_config, resuming, warn_of_changes

logger = logging.getLogger(__name__)


class RunFolder:
    """One run's folder. `create` makes or takes over one and locks it, `open` reads one.

    Attributes:
        path: the folder.
        resumed: whether this process continues an unfinished run.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = user_path(path)
        self.resumed = False
        self._lock: FolderLock | None = None
        self._replaces = False  # an older run is to be cleared when this one begins
        self._made: list[Path] = []  # folders made by `create`, innermost first

    @classmethod
    def create(cls, path: str | Path, *, overwrite: bool = False, resume: bool = False) -> RunFolder:
        """Make the folder, or take over the one that is there, and lock it against other processes.

        With `resume`, an unfinished run is continued and a finished one is returned as it is (see `finished`). With
        `overwrite`, the files of an older run go as soon as the new one calls `provenance`; foreign files stay.

        Raises:
            UserError: it holds something else or a run that may not be replaced, is in use, or cannot be written.
        """
        run = cls._find(path, overwrite and resume)
        with file_errors(run.path, "create the run folder"):
            run._made = [folder for folder in (run.path, *run.path.parents) if not folder.exists()]
            run.path.mkdir(parents=True, exist_ok=True)
            run._lock = lock_folder(run.path)
        try:
            run._take_over(overwrite, resume)
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def check(cls, path: str | Path, *, overwrite: bool = False, resume: bool = False) -> RunFolder:
        """The folder, not made and not locked; UserError where `create` would raise one that can be told by now."""
        run = cls._find(path, overwrite and resume)
        run._take_over(overwrite, resume)
        return run

    @classmethod
    def _find(cls, path: str | Path, both: bool) -> RunFolder:
        if both:
            raise UserError("resume and overwrite exclude each other: choose one")
        run = cls(path)
        with file_errors(run.path, "create the run folder"):
            if run.path.is_dir() and any(run.path.iterdir()) and not is_run_folder(run.path):
                raise UserError(f"{run.path}: not empty and not a run folder of nas-osr; choose another --out")
        return run

    def _begun(self) -> bool:
        """Whether a run's provenance is here, whole or not finished; not one that is being cleared away."""
        return (self.path / "provenance.json").exists() and not self.read_provenance().get("clearing")

    def _take_over(self, overwrite: bool, resume: bool) -> None:
        begun = self._begun()
        if begun and not (resume or overwrite):
            if self.finished:
                raise UserError(f"{self.path}: holds a finished run: choose another --out, or --overwrite it")
            raise UserError(f"{self.path}: holds an unfinished run: continue with --resume auto, or --overwrite it")
        self.resumed = begun and resume and not self.finished
        self._replaces = not (begun and resume)

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """A run folder to read (or to add an evaluation to), without a lock. Raises UserError when it is none."""
        run = cls(path)
        if not run.path.is_dir():
            raise UserError(f"{path}: no such run folder")
        if not (run.path / "provenance.json").is_file():
            raise UserError(f"{path}: not a run folder of nas-osr: provenance.json is missing")
        return run

    def close(self) -> None:
        """Release the lock; a folder in which no run began is left as it was before. Twice is harmless."""
        if self._lock is None:
            return
        try:
            with file_errors(self.path, "leave"):
                if self.path.is_dir() and {entry.name for entry in self.path.iterdir()} <= {*LOCKS}:
                    for name in LOCKS:
                        (self.path / name).unlink(missing_ok=True)
                    for folder in self._made:
                        folder.rmdir()
        finally:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, KeyboardInterrupt) and not error.args and self._begun():
            error.args = (f"resume with: {self.resume_command()}",)
        self.close()

    # Provenance ---------------------------------------------------------------------------------------------------

    def provenance(
        self,
        command: list[str],
        config: Mapping[str, Any],
        seed: int | None = None,
        data_fingerprint: str | None = None,
        **extra: Any,
    ) -> None:
        """Begin the run: write provenance.json and config.yaml. Comes before any other write.

        Args:
            command: the command line as a list, program first.
            config: the complete configuration without the output folder; plain values.
            seed, data_fingerprint: as named; None where there is none (or not one).
            extra: more plain values for provenance.json.

        Raises:
            UserError: the run is resumed with another configuration, or other data, than it began with.
        """
        now = environment.utc_now()
        config = plain(config, "config")
        for left in self.path.glob(".*.tmp"):  # by a process that was killed while it wrote
            left.unlink(missing_ok=True)
        if self.resumed:
            record = self.read_provenance()
            check_same_config(self.path, self.read_config(), config)
            if data_fingerprint != record.get("data_fingerprint"):
                raise UserError(f"{self.path}: cannot resume: the training images have changed since the run began")
            warn_of_changes(self.path, record, {**extra, "versions": environment.versions()})
            record["resumed"] = [*record.get("resumed", []), now]
            self.write_json("provenance.json", record)
            return
        header = {"program": PROGRAM, "schema": RUN_SCHEMA}
        if self._replaces and (self.path / "provenance.json").exists():
            self.write_json("provenance.json", {**header, "clearing": True})  # a crash here leaves no half of a run
            clear_run_folder(self.path)
        record = {
            **header,
            "command": command,
            "seed": seed,
            "data_fingerprint": data_fingerprint,
            "started": now,
            "resumed": [],
            "finished": None,
            "versions": environment.versions(),
            "machine": environment.machine(),
            "git_commit": environment.git_commit(),
            **extra,
        }
        self.write_yaml("config.yaml", config)
        self.write_json("provenance.json", record)

    def extend(self, config: Mapping[str, Any], may_change: Collection[str]) -> None:
        """Go on with a run whose configuration asks for more in the entries `may_change`; else do nothing.

        Raises:
            UserError: another entry differs.
        """
        before, config = self.read_config(), plain(config, "config")
        check_same_config(self.path, before, config, may_change)
        if any(before.get(name) != config.get(name) for name in may_change):
            record = self.read_provenance()
            resumed = [*record.get("resumed", []), environment.utc_now()]
            # in this order: a crash in between leaves a run that asks for less and is not finished
            self.write_json("provenance.json", {**record, "resumed": resumed, "finished": None})
            self.write_yaml("config.yaml", config)

    def finish(self) -> None:
        """Mark the run as finished: from now on it is replaced only with `overwrite`."""
        self.write_json("provenance.json", {**self.read_provenance(), "finished": environment.utc_now()})

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return (self.path / "provenance.json").exists() and self.read_provenance().get("finished") is not None

    def read_provenance(self) -> dict[str, Any]:
        """provenance.json. Raises UserError when it is missing or broken."""
        return self.read_json("provenance.json")

    def resume_command(self) -> str:
        """How to continue this run: a command line, or a call for a run that Python began."""
        command = [str(part) for part in self.read_provenance()["command"]]
        if command[0] != PROGRAM:
            return f'{command[0]}(..., resume="auto")'
        return resuming(command)

    # Files --------------------------------------------------------------------------------------------------------

    def write_text(self, name: str, text: str) -> None:
        """Write one of the `RUN_FILES` as UTF-8, whole or not at all. Raises UserError when the disk refuses."""
        with replace_file(self._own(name)) as file:
            file.write(text.encode())

    def write_json(self, name: str, value: Any) -> None:
        """Write plain values (see `plain`) as JSON with sorted keys; see `write_text`."""
        self.write_text(name, json.dumps(plain(value, name), indent=2, sort_keys=True, allow_nan=False) + "\n")

    def write_yaml(self, name: str, value: Mapping[str, Any]) -> None:
        """Write plain values (see `plain`) as YAML in their own order; see `write_text`."""
        self.write_text(name, format_yaml(plain(value, name)))

    def read_json(self, name: str) -> dict[str, Any]:
        """An object from a JSON file of the run. Raises UserError when it is missing or broken."""
        return read_object(self.path / name)

    def read_config(self) -> dict[str, Any]:
        """config.yaml. Raises UserError when it is missing or broken."""
        return read_config(self.path / "config.yaml")

    def _own(self, name: str) -> Path:
        """The path of a file that belongs to a run (ValueError otherwise: `--overwrite` would leave it behind)."""
        if "/" in name or not matches(name, RUN_FILES):
            raise ValueError(f"{name!r} is not among nas_osr.runs.names.RUN_FILES")
        return self.path / name

    # History ------------------------------------------------------------------------------------------------------

    def append_history(self, record: Mapping[str, Any]) -> None:
        """Append one epoch to history.jsonl; no times in it, so that equal runs have equal bytes."""
        self._append("history.jsonl", record)

    def append_timing(self, record: Mapping[str, Any]) -> None:
        """Append one epoch to timing.jsonl."""
        self._append("timing.jsonl", record)

    def read_history(self) -> list[dict[str, Any]]:
        """The records of history.jsonl; see `read_records`."""
        return read_records(self.path / "history.jsonl")

    def read_timing(self) -> list[dict[str, Any]]:
        """The records of timing.jsonl; see `read_records`."""
        return read_records(self.path / "timing.jsonl")

    def truncate_history(self, epochs: int) -> None:
        """Keep the first `epochs` records of history and timing: what the checkpoint that is being resumed knows of.

        Raises:
            UserError: the history is shorter than that.
        """
        for name, must_reach in (("history.jsonl", True), ("timing.jsonl", False)):
            records = read_records(self.path / name)
            if must_reach and len(records) < epochs:
                raise UserError(
                    f"{self.path / name}: has {len(records)} records, the checkpoint is of {epochs}; "
                    "the run cannot be resumed, start again with --overwrite"
                )
            self.write_text(name, "".join(map(json_line, records[:epochs])))

    def _append(self, name: str, record: Mapping[str, Any]) -> None:
        append_line(self._own(name), json_line(plain(record, name)))

    # Checkpoints --------------------------------------------------------------------------------------------------

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Save tensors and plain values, read them back, and only then replace the last checkpoint.

        The one before stays as checkpoint.previous.pt, so that at every moment a whole checkpoint is there.

        Raises:
            UserError: the disk refuses; the last checkpoint is intact.
        """
        import torch

        target = self._own(CHECKPOINT)
        with replace_file(target, keep_as=self.path / PREVIOUS_CHECKPOINT) as file:
            torch.save(dict(state), file)
            file.flush()
            read_checkpoint(Path(file.name), tensors=False)

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The newest whole checkpoint, its tensors on the CPU, or None when none was ever saved.

        Raises:
            UserError: every checkpoint is damaged.
        """
        damaged = []
        for path in (self.path / CHECKPOINT, self.path / PREVIOUS_CHECKPOINT):
            if path.exists():
                try:
                    state = read_checkpoint(path)
                except UserError as error:
                    damaged.append(str(error))
                    continue
                if damaged:
                    logger.warning("%s; going on from %s", damaged[0], path.name)
                return state
        if damaged:
            raise UserError(f"{'; '.join(damaged)}; start again with --overwrite")
        return None
