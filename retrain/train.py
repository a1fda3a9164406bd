"""Training one network on all known classes of one split: what is fixed before, and the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_fabric import Fabric
from torch import Tensor, nn

from nas_osr.data.dataset import LabelledImages, OpenSetData
from nas_osr.data.protocols import Protocol
from nas_osr.evaluation.judging import collect_outputs, decoder_figures
from nas_osr.plans import MachinePlan, ObjectivePlan, SchedulePlan
from nas_osr.retrain.build import build_learner
from nas_osr.retrain.initial_weights import SCRATCH, InitialWeights
from nas_osr.retrain.networks.starting_weights import load_weights
from nas_osr.runs.recorder import Recorder
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.training.epochs import Trainer, run_epochs
from nas_osr.training.learner import Learner
from nas_osr.training.monitors import monitor_retraining
from nas_osr.training.pace import Pace


@dataclass(frozen=True)
class TrainingPlan:
    """One network that is trained, from scratch or from given weights."""

    network: Architecture | str
    "the architecture of a discrete network, or the name of a baseline network."
    protocol: Protocol
    "the classes and images."
    objective: ObjectivePlan
    "what it learns, and how it is judged."
    schedule: SchedulePlan
    "how long."
    machine: MachinePlan
    "where."
    initial: InitialWeights = SCRATCH
    "what it begins with, where that is not fresh weights."
    weights: str | None = None
    "the same of a network by name alone, see `nas_osr.retrain.networks.starting_weights.load_weights`."

    @property
    def bound(self) -> str | None:
        """Why a longer training is another one from its first step on; None where it is not."""
        if self.schedule.recipe.schedule != "exponential":
            return f"the {self.schedule.recipe.schedule} schedule of its recipe follows the number of epochs"
        return self.objective.bound

    def fill_encoder(self, encoder: nn.Module) -> None:
        """Put the weights in place that the network begins with. Raises UserError: they are of another one."""
        self.initial.fill_encoder(encoder)
        if self.weights is not None:
            assert isinstance(self.network, str)
            load_weights(encoder, self.network, self.weights, self.protocol.image_shape)

    def build(self, outliers: Tensor | None = None) -> Learner:
        """See `build_learner`; it is ready to train where `outliers` are given, or the objective needs none.

        UserError: the initial weights are of another network, or this one gives the objective too little.
        """
        learner = build_learner(self.network, self.protocol, self.objective, outliers, self.fill_encoder)
        self.initial.fill_heads(learner.objective)
        learner.objective.check_training()
        self.machine.prepare(learner.encoder)
        return learner

    def train(self, learner: Learner, data: OpenSetData, fabric: Fabric, recorder: Recorder, seed: int) -> Any:
        """Train what `build` returned for all epochs, and return it as Fabric wrapped it.

        Only known training images update it. Known validation images are watched (closed-set accuracy), but nothing is
        chosen by them: the last epoch counts. Torch's global random state is seeded; wrap the call in
        `torch.random.fork_rng`.
        """
        wrapped, players, schedule = self.schedule.set_up(learner, fabric, self.protocol, seed)
        train, validation = data.train.to(fabric.device), data.validation.to(fabric.device)
        graphs = self.machine.graphs
        run_epochs(Retraining(fabric, wrapped, players, train, schedule, graphs, validation=validation), recorder)
        return wrapped


@dataclass(eq=False, kw_only=True)
class Retraining(Trainer):
    """A training that is watched on known validation images, which lie on the device."""

    validation: LabelledImages

    @property
    def pace(self) -> Pace | None:
        """What keeps the schedule in time, where there is a deadline."""
        factor = self.schedule.factor
        return factor if isinstance(factor, Pace) else None

    def stopped(self, history: Sequence[Mapping[str, Any]]) -> bool:
        return self.pace is not None and self.pace.over(history)

    def phase(self, epoch: int) -> str:
        return "retrain"

    def judge(self, record: Mapping[str, Any], norms: Mapping[str, float], history: Sequence[Any]) -> dict[str, Any]:
        """The closed-set accuracy and the monitors.

        The accuracy is None for an objective without a classifier: its rule judges it, at the end. `decoder_share` is
        there for an objective with a decoder. With a deadline, `share` says how much of the schedule has been passed.
        """
        outputs = collect_outputs(self.learner.infer, self.validation, device=self.fabric.device)
        labels = self.validation.labels.cpu()
        accuracy = None if outputs.logits is None else float((outputs.logits.argmax(1) == labels).double().mean())
        monitors = monitor_retraining(record["losses"], norms, outputs, labels, history)
        decoder = decoder_figures(self.learner.reconstruct, self.validation)
        paced = {} if self.pace is None else {"share": self.pace.next_share}
        return {"validation_accuracy": accuracy, **decoder, "monitors": monitors, **paced}
