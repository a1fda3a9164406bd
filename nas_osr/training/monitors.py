"""What shows that a training diverges or collapses, for searching and retraining alike.

Everything is summed on the device and read every `CHECK_EVERY` steps or once an epoch, so that no step waits for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from nas_osr.errors import UserError
from nas_osr.outputs import Outputs

CHECK_EVERY = 100  # steps between two looks at what is not finite, each of which waits for the device
NORM = "gradient_norm/"  # in front of the player whose gradient it is, among the loss terms of a step

EXPLOSION = 10.0  # a mean over an epoch this many times as large as in the epochs before
WINDOW = 3  # so many epochs before count
SPREAD = 0.02  # of embeddings: below, they point in one direction
CHANCE_EPOCHS = 3  # an accuracy may be at chance for fewer epochs
STANDARD_ERRORS = 2.0  # by which an accuracy has to exceed chance

NEVER = 2**62  # a step that no training comes to
KEPT = "what was saved before is intact"


class LossMeter:
    """Sums loss terms on the device and reads them once, so that no step waits for the device."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Count the terms of one step."""
        for name, value in losses.items():
            value = value.detach()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1

    def state_dict(self) -> dict[str, Any]:
        """What has been counted so far."""
        return {"sums": self.sums, "counts": self.counts}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go on from what `state_dict` returned, on this device."""
        self.sums = {name: value.to(device) for name, value in state["sums"].items()}
        self.counts = dict(state["counts"])

    def means(self) -> dict[str, float]:
        """Mean of each term over the steps; UserError when one is not finite, by its name."""
        means = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        bad = [name for name, value in means.items() if value - value != 0.0]
        if bad:
            raise UserError(
                f"training diverged: loss term {bad[0]!r} is {means[bad[0]]}; lower the learning rate or its weight"
            )
        return means


class FiniteWatch:
    """Remembers on the device at which step of an epoch each loss term and gradient norm stopped being finite."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, ...], Tensor] = {}  # [K] the first step in which it was not; `NEVER` so far

    def see(self, terms: Mapping[str, Tensor], step: int) -> Mapping[str, Tensor]:
        """Take note of the scalar terms of one step, counted from 0, and return them."""
        names = tuple(terms)
        if names:
            values = torch.stack([value.detach().float() for value in terms.values()])
            first = torch.where(values - values == 0.0, NEVER, step)
            self._first[names] = torch.minimum(self._first[names], first) if names in self._first else first
        return terms

    def first_bad(self) -> tuple[int, list[str]] | None:
        """The first step with something that is not finite, and what: loss terms, or one gradient norm. Waits once."""
        if not self._first:
            return None
        first = torch.cat(list(self._first.values())).tolist()
        names = [(group, name) for group, names in enumerate(self._first) for name in names]
        bad = [(step, *name) for name, step in zip(names, first, strict=True) if step != NEVER]
        if not bad:
            return None
        # what comes first in a step, in the order of the computation
        first_step, first_group, _ = min(bad, key=lambda entry: entry[:2])
        found = [name for step, group, name in bad if (step, group) == (first_step, first_group)]
        # a gradient follows from its player's losses, and a later player's losses from that gradient
        losses = list(takewhile(lambda name: not name.startswith(NORM), found))
        return first_step, losses or found[:1]

    def check(self, epoch: int, epochs: int, steps: int) -> None:
        """UserError that says what stopped being finite, when, and how to mend it."""
        bad = self.first_bad()
        if bad is None:
            return
        step, names = bad
        where = f"in step {step + 1} of {steps} of epoch {epoch + 1} of {epochs}"
        if names[0].startswith(NORM):
            player = names[0].removeprefix(NORM)
            raise UserError(
                f"training diverged: the gradient of player {player!r} is not finite {where}, while its loss is; "
                f"lower the learning rate; {KEPT}"
            )
        terms = f"loss term {names[0]!r} is" if len(names) == 1 else f"loss terms {', '.join(map(repr, names))} are"
        raise UserError(
            f"training diverged: {terms} not finite {where}; lower the learning rate or the term's weight; {KEPT}"
        )


def check_weights(module: nn.Module, epoch: int, epochs: int) -> None:
    """UserError, naming it, when a parameter or a running statistic is not finite: no checkpoint should hold it.

    A loss and its gradient may be finite in the last step of an epoch and the weights after it not.
    """
    named = [*module.named_parameters(), *module.named_buffers()]
    checked = [
        (name, value)
        for name, value in named
        if value.is_floating_point() and (value.requires_grad or "running_" in name)
    ]
    if not checked:
        return
    with torch.no_grad():
        finite = torch.stack([value.isfinite().all() for _, value in checked]).tolist()
    for (name, _), good in zip(checked, finite, strict=True):
        if not good:
            raise UserError(
                f"training diverged: {name} is not finite after epoch {epoch + 1} of {epochs}, while every loss term "
                f"and gradient was; lower the learning rate; {KEPT}"
            )


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The 2-norm of all gradients as one vector, a scalar on their device; 0 where there are none."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)


def split_norms(means: Mapping[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """The means over an epoch, as the loss terms by name and the gradient norms by player."""
    losses = {name: value for name, value in means.items() if not name.startswith(NORM)}
    norms = {name.removeprefix(NORM): value for name, value in means.items() if name.startswith(NORM)}
    return losses, norms


def embedding_spread(embedding: Tensor) -> float | None:
    """How far unit vectors of embeddings [B, D] are spread: sqrt(1 - |their mean|^2), in [0, 1].

    It is the square root of their total variance: 0 when all point in one direction, 1 when they cancel. SimSiam (Chen
    and He 2021, fig. 2) watches the same variance by dimension. None when an embedding is not finite.
    """
    vectors = embedding.double()
    if not bool(vectors.isfinite().all()):
        return None
    largest = vectors.abs().amax(dim=1, keepdim=True)
    vectors = torch.nn.functional.normalize(vectors / torch.where(largest > 0, largest, 1.0), dim=1)
    # a vector of zeros has no direction of its own: as one that is the same for all
    mean = vectors.mean(dim=0)
    square = (vectors - mean).square().sum(dim=1).mean()
    return float(square.clamp(0.0, 1.0).sqrt())


def chance_accuracy(labels: Tensor) -> float:
    """The accuracy that a network which always says the same class might have on labels [B].

    The largest class's share, and `STANDARD_ERRORS` standard errors of such a share.
    """
    count = len(labels)
    share = float(labels.bincount().max()) / count
    return share + STANDARD_ERRORS * (share * (1.0 - share) / count) ** 0.5


def monitor_retraining(
    losses: Mapping[str, float],
    norms: Mapping[str, float],
    outputs: Outputs,
    labels: Tensor,
    history: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """What a history record of a retraining says under `monitors`; docs/reference/run-folder.md names the fields.

    Args:
        losses, norms: of this epoch, as `split_norms` returns them.
        outputs: for the known validation images.
        labels: [B] int64, theirs.
        history: the records before.
    """
    spread = None if outputs.embedding is None else embedding_spread(outputs.embedding)
    warnings = explosion_warnings(losses, norms, history)
    if spread is not None and spread < SPREAD:
        warnings["embedding"] = (
            f"the embeddings of all validation images point in one direction (spread {spread:.1g} of 1): "
            "collapsed; lower the learning rate"
        )
    if outputs.logits is not None and len(history) + 1 >= CHANCE_EPOCHS:
        accuracy = float((outputs.logits.argmax(1) == labels).double().mean())
        chance = chance_accuracy(labels)
        if accuracy <= chance:
            warnings["chance"] = (
                f"the accuracy {accuracy:.3f} on validation images is not above chance ({chance:.3f}): nothing has "
                "been learnt; try another learning rate"
            )
    return {"gradient_norm": dict(norms), "embedding_spread": spread, "warnings": warnings}


def explosion_warnings(
    losses: Mapping[str, float], norms: Mapping[str, float], history: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    """Warnings `loss` and `gradient`: tenfold within an epoch.

    The total loss is compared, by its absolute value, with the largest of the last `WINDOW` epochs of the same phase;
    each gradient norm with their median. Nothing is said before there are so many.

    Args:
        losses, norms: of this epoch, as `split_norms` returns them.
        history: the records before, of this phase; those of older versions have no norms.
    """
    warnings: dict[str, str] = {}
    before = history[-WINDOW:]
    if len(before) < WINDOW:
        return warnings
    total, largest = abs(total_loss(losses)), max(abs(total_loss(record["losses"])) for record in before)
    if total > EXPLOSION * largest > 0:
        warnings["loss"] = (
            f"the loss is {total:.3g}, more than {EXPLOSION:g} times that of the {WINDOW} epochs before: "
            "lower the learning rate"
        )
    for player, norm in norms.items():
        recorded = [record.get("monitors", {}).get("gradient_norm", {}).get(player) for record in before]
        earlier = [value for value in recorded if value is not None]
        if len(earlier) == WINDOW and norm > EXPLOSION * median(earlier) > 0:
            warnings["gradient"] = (
                f"the mean gradient norm of {player} is {norm:.3g}, more than {EXPLOSION:g} times that of the "
                f"{WINDOW} epochs before: lower the learning rate"
            )
    return warnings


def total_loss(losses: Mapping[str, float]) -> float:
    """The sum of the weight step's terms."""
    return sum(value for name, value in losses.items() if not name.startswith("architecture/"))


def record_warnings(record: Mapping[str, Any]) -> Mapping[str, str]:
    """The warnings in a history record; none in those of older versions."""
    return record.get("monitors", {}).get("warnings", {})


def stop_reason(history: Sequence[Mapping[str, Any]]) -> str | None:
    """Why a search was stopped before its last epoch, from its history; None when it was not."""
    return history[-1].get("monitors", {}).get("stopped") if history else None


def all_warnings(history: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The last warning of each kind."""
    return {kind: text for record in history for kind, text in record_warnings(record).items()}
