"""Checkpoints between two steps of an epoch, from which the epoch goes on bit for bit."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from nas_osr.runs.recorder import Recorder

if TYPE_CHECKING:
    from nas_osr.training.monitors import LossMeter


@dataclass
class StepCheckpoints:
    """Saves a training inside its epochs whenever the recorder wants it, and continues inside one.

    A checkpoint holds the steps done, every random generator and the sums of the losses. Which images come next
    follows from the seed and the number of steps.
    """

    recorder: Recorder
    "takes the checkpoints."
    device: torch.device
    "the training's."
    state: Callable[[], dict[str, Any]]
    "returns everything else that a checkpoint holds: weights, optimisers and so on."
    restored: dict[str, Any] | None
    "the checkpoint that the training goes on from, until it does; None when it starts."
    started: float = 0.0
    "when the epoch began, on the clock of `time.perf_counter`, pauses left out."

    def begin(self, epoch: int, augmentation: torch.Generator, meter: LossMeter) -> int:
        """Begin an epoch whose random streams have just been seeded, or go on in the one that was left.

        Args:
            epoch: counts from 0.
            augmentation: the generator of the epoch's augmentation. Torch's global ones are looked after as well.
            meter: is given the losses of the steps that are done.

        Returns:
            how many steps of the epoch are done.
        """
        inside, self.restored = (self.restored or {}).get("inside"), None
        self._epoch, self._augmentation, self.started = epoch, augmentation, time.perf_counter()
        if inside is None:
            return 0
        self.started -= inside["seconds"]
        meter.load_state_dict(inside["losses"], self.device)
        random = inside["random"]
        torch.set_rng_state(random["cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(random["cuda"], self.device)
        augmentation.set_state(random["augmentation"])
        return inside["steps"]  # type: ignore[no-any-return]

    def after_step(self, steps: int, meter: LossMeter, check: Callable[[], None]) -> None:
        """Save if it is time to; `steps` of this epoch are done. Raises KeyboardInterrupt if the process is to end.

        Args:
            check: raises when this training is not worth saving, as one with NaN among its weights.
        """
        if not self.recorder.wants_checkpoint():
            return
        check()
        random = {"cpu": torch.get_rng_state(), "augmentation": self._augmentation.get_state()}
        if self.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.device)
        inside = {
            "steps": steps,
            "random": random,
            "losses": meter.state_dict(),
            "seconds": time.perf_counter() - self.started,
        }
        self.recorder.save({"epoch": self._epoch - 1, "inside": inside, **self.state()})
