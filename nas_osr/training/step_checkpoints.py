"""Checkpoints between two steps of an epoch, from which the epoch goes on bit for bit."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from nas_osr.runs.recorder import Recorder

if TYPE_CHECKING:
    from nas_osr.training.losses import LossMeter


class StepCheckpoints:
    """Saves a training inside its epochs whenever the recorder wants it, and continues inside one.

    A checkpoint holds the steps done, every random generator and the sums of the losses. Which images come next
    follows from the seed and the number of steps.

    Args:
        recorder: takes the checkpoints.
        device: the training's.
        state: returns everything else that a checkpoint holds: weights, optimisers and so on.
        restored: the checkpoint that the training goes on from; None when it starts.
    """

    def __init__(
        self,
        recorder: Recorder,
        device: torch.device,
        state: Callable[[], dict[str, Any]],
        restored: dict[str, Any] | None,
    ) -> None:
        self.recorder = recorder
        self.device = device
        self.state = state
        self._inside: dict[str, Any] | None = None if restored is None else restored.get("inside")
        self._losses: dict[str, Any] | None = None
        self._epoch = -1
        self._started = 0.0
        self._augmentation: torch.Generator | None = None

    def begin(self, epoch: int, augmentation: torch.Generator) -> int:
        """Begin an epoch whose random streams have just been seeded, or go on in the one that was left.

        Args:
            epoch: counts from 0.
            augmentation: the generator of the epoch's augmentation. Torch's global ones are looked after as well.

        Returns:
            how many steps of the epoch are done.
        """
        inside, self._inside = self._inside, None
        self._epoch, self._augmentation = epoch, augmentation
        self._started = time.perf_counter() - (inside["seconds"] if inside else 0.0)
        self._losses = inside["losses"] if inside else None
        if inside is None:
            return 0
        random = inside["random"]
        torch.set_rng_state(random["cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(random["cuda"], self.device)
        augmentation.set_state(random["augmentation"])
        return inside["steps"]

    @property
    def started(self) -> float:
        """When the epoch began, on the clock of `time.perf_counter`, pauses left out."""
        return self._started

    def restore_losses(self, meter: LossMeter) -> None:
        """Give a fresh meter the losses of the steps that are done."""
        if self._losses is not None:
            meter.load_state_dict(self._losses, self.device)

    def after_step(self, steps: int, meter: LossMeter, check: Callable[[], None]) -> None:
        """Save if it is time to; `steps` of this epoch are done. Raises KeyboardInterrupt if the process is to end.

        Args:
            check: raises when this training is not worth saving, as one with NaN among its weights.
        """
        if not self.recorder.wants_checkpoint():
            return
        check()
        assert self._augmentation is not None
        random = {"cpu": torch.get_rng_state(), "augmentation": self._augmentation.get_state()}
        if self.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.device)
        inside = {
            "steps": steps,
            "random": random,
            "losses": meter.state_dict(),
            "seconds": time.perf_counter() - self._started,
        }
        self.recorder.save({"epoch": self._epoch - 1, "inside": inside, **self.state()})
