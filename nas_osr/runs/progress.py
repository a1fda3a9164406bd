"""What a long computation shows while it runs: one line an epoch on stderr, with a live bar of steps on a terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from nas_osr.runs.contention import Contention

SHOWN = ("f1", "auroc", "discrete_f1", "validation_accuracy", "decoder_share")  # scores in a record, in this order
SILENCE = 60.0  # seconds without a line, after which the steps of an epoch get one where there is no terminal


class ProgressReporter:
    """Reports steps and epochs: losses, scores, images a second, time left. Use it as a context manager.

    Args:
        epochs: how many there will be (or trials, where the records are of those).
        quiet: print nothing.
        title: what is computed, in front of every line.
        in_turn: whether they come one after the other, so that their seconds say how long is left.
        later: epochs of other splits and seeds that the same command computes afterwards.
    """

    def __init__(self, epochs: int, quiet: bool = False, title: str = "", in_turn: bool = True, later: int = 0) -> None:
        self.epochs = epochs
        self.in_turn = in_turn
        self.quiet = quiet
        self.later = later
        self.prefix = f"{title}  " if title else ""
        self._done = 0
        self._seconds: list[float] = []
        self._warned: set[str] = set()
        self._bar: Any = None
        self._contention: Contention | None = None
        self._said = time.monotonic()
        self._first_step: tuple[int, float] | None = None  # of this epoch, and when it was done

    def __enter__(self) -> ProgressReporter:
        self._said = time.monotonic()
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._bar.add_task(f"{self.prefix}epoch 1/{self.epochs}", total=self.epochs)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, done: int, steps: int) -> None:
        """Take note of so many steps of an epoch: the bar follows; elsewhere a line a minute where epochs are long."""
        if self.quiet:
            return
        self._look_for_contention()
        now = time.monotonic()
        if self._first_step is None or done <= self._first_step[0]:
            self._first_step = done, now
        text = f"{self.prefix}epoch {self._done + 1}/{self.epochs}  step {done}/{steps}"
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done + done / steps, description=text)
        elif now - self._said >= SILENCE and done > self._first_step[0]:
            pace = (now - self._first_step[1]) / (done - self._first_step[0])
            self._print(f"{text}  {span((steps - done) * pace)} left in it")

    def begin(self, place: Mapping[str, Any]) -> None:
        """Say where the run is computed, and in which precision: what `describe_fabric` returns."""
        if not self.quiet:
            threads = place["cpu_threads"]
            where = place["device_name"] or f"{place['device']}, {threads} thread{'s' if threads > 1 else ''}"
            self._print(f"{self.prefix}computed on {where} in {place['precision']}")
            self._contention = Contention(threads)

    def epoch(self, record: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        """Report one epoch: a history record and its timing (`seconds`, `training_seconds`, `images`)."""
        if self.quiet:
            return
        self._look_for_contention()
        self._seconds.append(timing["seconds"])
        self._done, self._first_step = record["epoch"] + 1, None
        seconds = self._seconds if self.in_turn else []
        self._print(self.prefix + format_epoch(record, timing, self.epochs, seconds, self.later))
        for kind, message in record.get("monitors", {}).get("warnings", {}).items():
            if kind not in self._warned:  # the history has it for every epoch
                self._warned.add(kind)
                self._print(f"{self.prefix}warning: {message}")
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done)

    def _look_for_contention(self) -> None:
        if self._contention is not None and (warning := self._contention.warning()) is not None:
            self._print(f"{self.prefix}warning: {warning}")

    def _print(self, line: str) -> None:
        self._said = time.monotonic()
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


def format_epoch(
    record: Mapping[str, Any], timing: Mapping[str, Any], epochs: int, seconds: list[float], later: int = 0
) -> str:
    """One line for an epoch; `seconds` are the durations so far, which tell the time left; none tell nothing.

    With `later` epochs of other splits and seeds to come, also the time left of the whole command.
    """
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
    pace = sum(recent) / len(recent) if recent else 0.0
    if done == epochs:
        parts.append("done")
    elif recent:
        parts.append(f"{span((epochs - done) * pace)} left")
    if recent and later:
        parts.append(f"{span((epochs - done + later) * pace)} in all")
    return "  ".join(parts)


def span(seconds: float) -> timedelta:
    """A time left, to the second."""
    return timedelta(seconds=round(seconds))
