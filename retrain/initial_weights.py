"""The weights that a training begins with: those of a trained model (`--init`), or fresh ones.

The network must be the same one. Heads are taken over where the objective is the same, tensor by tensor: SupCon that
begins with SimCLR has all of them, a classifier of other classes is fresh.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nas_osr.data.protocols import REHEARSAL, Protocol
from nas_osr.errors import UserError
from nas_osr.files.text import read_object
from nas_osr.plans import ObjectivePlan
from nas_osr.retrain.model import JSON_FILE, find_model
from nas_osr.retrain.model_reading import open_model
from nas_osr.runs.names import MODEL_FOLDER
from nas_osr.runs.run_folder import RunFolder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class InitialWeights:
    """What a training begins with; by default nothing but fresh weights.

    Attributes:
        origin: the model folder.
        encoder: the network's tensors, by name.
        heads: the objective's, where it is the same objective.
        sha256: of the model's weights.
    """

    origin: str = ""
    encoder: Mapping[str, Tensor] = field(default_factory=dict)
    heads: Mapping[str, Tensor] = field(default_factory=dict)
    sha256: str = ""

    def fill_encoder(self, encoder: nn.Module) -> None:
        """Put the network's weights in place, before any head looks at them. UserError: it is another network."""
        if not self.origin:
            return
        for name, own, theirs in differences(encoder.state_dict(), self.encoder):
            raise UserError(f"init: {self.origin} is another network: {name} is {theirs} there, {own} here")
        encoder.load_state_dict(dict(self.encoder))

    def fill_heads(self, heads: nn.Module) -> None:
        """Put in place the heads' weights that fit."""
        if self.heads:
            fitting = set(self.heads) - {name for name, *_ in differences(heads.state_dict(), self.heads)}
            heads.load_state_dict({name: self.heads[name] for name in fitting}, strict=False)

    def say(self, run: RunFolder, heads: nn.Module) -> None:
        """Say in a line what a run that begins takes over, and which of its heads' tensors are fresh."""
        if not self.origin or run.read_history():
            return
        own = heads.state_dict()
        fresh = sorted(own.keys() & {name for name, *_ in differences(own, self.heads)})
        kept = len(own) - len(fresh)
        names = ", ".join(fresh[:4]) + (f" and {len(fresh) - 4} more" if len(fresh) > 4 else "")
        of_heads = f"{kept} of {len(own)} of its heads" + (f"; fresh are {names}" if fresh else "")
        logger.warning(
            "init %s: taken over all %d tensors of the network and %s", self.origin, len(self.encoder), of_heads
        )

    def record(self, run: RunFolder) -> None:
        """Keep in provenance.json which weights a run begins with. UserError: a run goes on that began with others."""
        provenance = run.read_provenance()
        if provenance.get("init_sha256", self.sha256) != self.sha256:
            raise UserError(f"{run.path}: cannot resume: the weights of {self.origin} have changed since the run began")
        if self.origin:
            run.write_json("provenance.json", {**provenance, "init_sha256": self.sha256})


SCRATCH = InitialWeights()


def differences(own: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> Iterable[tuple[str, str, str]]:
    """Each tensor that only one of two modules has, or that has another shape, with its shape in both."""
    for name in sorted(own.keys() | theirs.keys()):
        shapes = [str(list(state[name].shape)) if name in state else "missing" for state in (own, theirs)]
        if shapes[0] != shapes[1]:
            yield name, shapes[0], shapes[1]


def read_initial(reference: str, part: str, protocol: Protocol, objective: ObjectivePlan) -> InitialWeights:
    """The weights of a model, for one part of a retraining.

    Args:
        reference: a model folder or a finished retraining; of one with several parts, its part of the same split, and
            of the same seed where it has several.
        part: the part's folder, `split-K` or `split-K-seed-S`.
        protocol, objective: what is to be trained.

    Raises:
        UserError: there is no such model, it has no such part, or it has learned from a class that is unknown here.
    """
    folder = Path(reference)
    own = [folder / name for name in (part, part.partition("-seed-")[0]) if (folder / name / MODEL_FOLDER).is_dir()]
    if not own and len(list(folder.glob(f"split-*/{MODEL_FOLDER}"))) > 0:
        raise UserError(f"init: {folder} has no finished {part}: give a run of the same splits, or one part of it")
    place = find_model(own[0] if own else folder)
    model = open_model(place)
    check_classes(model.about.get("protocol"), protocol, place)
    tensors = model.learner.state_dict()
    parts: dict[str, dict[str, Tensor]] = {"encoder": {}, "objective": {}}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        parts[kind][rest] = tensor
    same = model.objective.kind is objective.kind
    checksum = str(read_object(place / JSON_FILE)["weights_sha256"])
    return InitialWeights(str(place), parts["encoder"], parts["objective"] if same else {}, checksum)


def check_classes(learned: Any, protocol: Protocol, place: Path) -> None:
    """UserError when a model has learned from images that a protocol tests on; one that does not tell passes.

    Args:
        learned: the description of the protocol that it was trained on, if it has one.
        protocol: what is to be trained.
        place: the model's folder, for messages.
    """
    if not isinstance(learned, dict):
        logger.warning("init %s: the model does not say which classes it has learned from", place)
        return
    theirs = Protocol.from_dict(learned)
    shown = set(theirs.known_classes) & set(protocol.unknown) if theirs.source == protocol.unknown_source else set()
    if shown:
        raise UserError(f"init: {place} has learned from images of {min(shown)}, which is unknown here")
    if protocol.family == REHEARSAL and theirs.source == protocol.source and theirs != protocol:
        raise UserError(f"init: {place} may have learned from what this rehearsal tests on: begin with an equal one")
