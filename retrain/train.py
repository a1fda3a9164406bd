"""Training one network on all known classes of one split, from scratch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_fabric import Fabric

from nas_osr.data.dataset import OpenSetData
from nas_osr.evaluation.judging import collect_outputs
from nas_osr.retrain.parts import TrainingPlan
from nas_osr.runs.recorder import Recorder
from nas_osr.training.epochs import Schedule, Trainer, run_epochs
from nas_osr.training.graphs import Choice
from nas_osr.training.learner import Learner
from nas_osr.training.monitors import monitor_retraining


def train(
    plan: TrainingPlan, learner: Learner, data: OpenSetData, fabric: Fabric, recorder: Recorder, seed: int
) -> Any:
    """Train `learner`, which `plan` has built, for all epochs and return it as Fabric wrapped it.

    Only known training images update it. Known validation images are watched (closed-set accuracy), but nothing is
    chosen by them: the last epoch counts. Torch's global random state is seeded; wrap the call in
    `torch.random.fork_rng`.
    """
    wrapped, players, schedule = plan.set_up(learner, fabric, seed)
    run_epochs(Retraining(fabric, wrapped, players, data, schedule, plan.machine.graphs), recorder)
    return wrapped


class Retraining(Trainer):
    """A training that is watched on known validation images."""

    def __init__(
        self,
        fabric: Fabric,
        learner: Any,
        optimizers: Mapping[str, Any],
        data: OpenSetData,
        schedule: Schedule,
        graphs: Choice,
    ) -> None:
        super().__init__(fabric, learner, optimizers, data.train.to(fabric.device), schedule, graphs)
        self.validation = data.validation.to(fabric.device)

    def phase(self, epoch: int) -> str:
        """See `Trainer`."""
        return "retrain"

    def judge(self, record: Mapping[str, Any], norms: Mapping[str, float], history: Sequence[Any]) -> dict[str, Any]:
        """See `Trainer`: the closed-set accuracy and the monitors.

        The accuracy is None for an objective without a classifier: its rule judges it, at the end.
        """
        outputs = collect_outputs(self.learner.infer, self.validation, device=self.fabric.device)
        labels = self.validation.labels.cpu()
        accuracy = None if outputs.logits is None else float((outputs.logits.argmax(1) == labels).double().mean())
        monitors = monitor_retraining(record["losses"], norms, outputs, labels, history)
        return {"validation_accuracy": accuracy, "monitors": monitors}
