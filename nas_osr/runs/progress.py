"""What a long computation shows while it runs: one line an epoch on stderr, with a live bar on a terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

SHOWN = ("f1", "auroc", "discrete_f1", "validation_accuracy", "decoder_share")  # scores in a record, in this order


class ProgressReporter:
    """Reports epochs: losses, scores, images a second, time left. Use it as a context manager.

    Args:
        epochs: how many there will be (or trials, where the records are of those).
        quiet: print nothing.
        title: what is computed, in front of every line.
        in_turn: whether they come one after the other, so that their seconds say how long is left.
    """

    def __init__(self, epochs: int, quiet: bool = False, title: str = "", in_turn: bool = True) -> None:
        self.epochs = epochs
        self.in_turn = in_turn
        self.quiet = quiet
        self.prefix = f"{title}  " if title else ""
        self._seconds: list[float] = []
        self._warned: set[str] = set()
        self._bar: Any = None

    def __enter__(self) -> ProgressReporter:
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (TextColumn("epoch"), MofNCompleteColumn(), BarColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._bar.add_task("epochs", total=self.epochs)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, place: Mapping[str, Any]) -> None:
        """Say where the run is computed, and in which precision: what `describe_fabric` returns."""
        if not self.quiet:
            where = place["device_name"] or f"{place['device']}, {place['cpu_threads']} threads"
            self._print(f"{self.prefix}computed on {where} in {place['precision']}")

    def epoch(self, record: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        """Report one epoch: a history record and its timing (`seconds`, `training_seconds`, `images`)."""
        if self.quiet:
            return
        self._seconds.append(timing["seconds"])
        seconds = self._seconds if self.in_turn else []
        self._print(self.prefix + format_epoch(record, timing, self.epochs, seconds))
        for kind, message in record.get("monitors", {}).get("warnings", {}).items():
            if kind not in self._warned:  # the history has it for every epoch
                self._warned.add(kind)
                self._print(f"{self.prefix}warning: {message}")
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=record["epoch"] + 1)

    def _print(self, line: str) -> None:
        if self._bar is None:
            tell(line)
        else:
            with contextlib.suppress(OSError):
                self._bar.console.print(line, highlight=False, markup=False)


def tell(line: str) -> None:
    """Print a line for people on stderr. One that takes none (full, closed, its reader gone) ends no computation."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(line, file=sys.stderr, flush=True)


def format_epoch(record: Mapping[str, Any], timing: Mapping[str, Any], epochs: int, seconds: list[float]) -> str:
    """One line for an epoch; `seconds` are the durations so far, which tell the time left; none tell nothing."""
    done = record["epoch"] + 1
    weights = {name: value for name, value in record["losses"].items() if not name.startswith("architecture/")}
    parts = [f"trial {done}/{epochs}"] if record["phase"] == "trial" else [f"epoch {done}/{epochs}", record["phase"]]
    parts.append(f"loss {sum(weights.values()):.3f}")
    parts += [f"{name} {record[name]:.4f}" for name in SHOWN if record.get(name) is not None]
    if record.get("same_as") is not None:
        parts.append(f"not trained: computes the same as trial {record['same_as'] + 1}")
    else:
        parts.append(f"{timing['images'] / timing['training_seconds']:.0f} images/s")
    recent = seconds[-3:]
    if done == epochs:
        parts.append("done")
    elif recent:
        left = (epochs - done) * sum(recent) / len(recent)
        parts.append(f"{timedelta(seconds=round(left))} left")
    return "  ".join(parts)
