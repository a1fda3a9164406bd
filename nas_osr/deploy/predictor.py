"""A trained model that is asked: `nas_osr.load(MODEL)`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nas_osr.data.batches import to_float
from nas_osr.deploy.pictures import make_images, try_pictures
from nas_osr.errors import UserError
from nas_osr.evaluation.judging import INFERENCE_BATCH
from nas_osr.objectives.base import Objective
from nas_osr.outputs import Outputs, mean_of_both
from nas_osr.plans import import_plugins
from nas_osr.retrain.model import Model
from nas_osr.retrain.model_reading import open_model
from nas_osr.training.fabric import choose_device

UNKNOWN = "unknown"


class Inference(nn.Module):
    """The network with its heads: images [B, C, H, W] float in [0, 1] -> `nas_osr.outputs.Outputs`.

    Attributes:
        encoder: images -> feature maps (`nas_osr.outputs.Features`).
        objective: the heads.
        mirrored: whether what they say is the mean of what they make of an image and of its mirror image.
    """

    def __init__(self, encoder: nn.Module, objective: Objective, mirrored: bool) -> None:
        super().__init__()
        self.encoder, self.objective, self.mirrored = encoder, objective, mirrored

    def forward(self, images: Tensor, whole: bool = False) -> Outputs:
        """What the heads say of the images; see `Objective.infer`."""
        look = partial(self.objective.infer, self.encoder, whole=whole)
        return mean_of_both(look, images) if self.mirrored else look(images)


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model says of n images.

    Attributes:
        labels: [n] int64 in 0..N, N is unknown.
        nearest: [n] int64 in 0..N-1, the most likely known class, accepted or not.
        knownness: [n] float64, higher = more known.
        margin: [n] float64, knownness minus the threshold: the image counts as known from 0 on.
        probabilities: [n, N] float64, see `OpenSetModel.predict_proba`.
    """

    labels: np.ndarray
    nearest: np.ndarray
    knownness: np.ndarray
    margin: np.ndarray
    probabilities: np.ndarray


def join_answers(parts: list[Answers]) -> Answers:
    """Those of several batches, one at least."""
    return Answers(*(np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])))


class OpenSetModel:
    """Tells known classes apart and says which images are of none of them, in scikit-learn's words.

    Images are paths, PIL images, arrays or tensors, one or many; `nas_osr.deploy.pictures.make_images` says which
    shapes and values, and how they are brought to the network's size. One image gives arrays of one entry. Everything
    is computed in 32 bits, without gradients.

    Attributes:
        classes_: [N] names of the known classes, in the order of the columns of `predict_proba`.
        unknown: what `predict` says of an image of none of them: "unknown", with underscores in front where a class
            has that name itself.
        thresholds: [N] the least knownness of an image that is called each class.
        network: a plain torch.nn.Module in eval mode, see `Inference`.
        model: the whole content of the model folder; `model.about` has protocol, metrics and versions.
    """

    def __init__(self, model: Model, device: str = "auto", batch_size: int = INFERENCE_BATCH) -> None:
        """Raises UserError: the device is not there, or batch_size is less than 1."""
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise UserError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
        self.model, self.device, self.batch_size = model, choose_device(device), batch_size
        learner = model.learner
        self.network = Inference(learner.encoder, learner.objective, learner.mirrored).eval().to(self.device)
        self.classes_ = np.array(model.inputs.classes)
        self.unknown = UNKNOWN
        while self.unknown in model.inputs.classes:
            self.unknown = f"_{self.unknown}"
        assert model.rule.threshold is not None
        self.thresholds = np.array(model.class_thresholds or [model.rule.threshold] * len(self.classes_))

    def __repr__(self) -> str:
        shown = ", ".join(map(str, self.classes_[:5])) + (", ..." if len(self.classes_) > 5 else "")
        return f"OpenSetModel({len(self.classes_)} known classes: {shown}; rule {self.model.rule.name})"

    def predict(self, images: Any) -> np.ndarray:
        """[n] names: the class of each image, or `unknown`. Raises UserError, as all of these do: see `ask`."""
        return np.append(self.classes_, self.unknown)[self.ask(images).labels]

    def predict_proba(self, images: Any) -> np.ndarray:
        """[n, N] which known class an image is, were it of one: the softmax of the rule's class scores; rows sum to 1.

        The largest is that of the predicted class. They are not calibrated, and say nothing of whether the image is
        known: `decision_function` does.
        """
        return self.ask(images).probabilities

    def decision_function(self, images: Any) -> np.ndarray:
        """[n] knownness minus the threshold: an image counts as known from 0 on."""
        return self.ask(images).margin

    def score(self, images: Any, labels: Iterable[Any]) -> float:
        """Accuracy over known and unknown images: the share whose prediction is right.

        A label that is none of `classes_` stands for an unknown image; "unknown" is right for it.
        """
        truth = np.array([str(label) for label in labels])
        predicted = self.predict(images)
        if len(truth) != len(predicted):
            raise UserError(f"{len(predicted)} images have {len(truth)} labels: give one for each")
        return float(np.mean(predicted == np.where(np.isin(truth, self.classes_), truth, self.unknown)))

    def ask(self, images: Any) -> Answers:
        """Everything that the model says of some images.

        Raises:
            UserError: a file cannot be read, an array is of another shape or has other values, there is no image, or
                the scores are not numbers.
        """
        prepared = make_images(images, self.model.inputs)
        return join_answers([self._ask(part) for part in prepared.split(self.batch_size)])

    def ask_files(self, files: Iterable[Path]) -> Iterator[tuple[list[tuple[Path, UserError | None]], Answers | None]]:
        """Everything that the model says of image files, a batch at a time: no more than that is in memory.

        Yields:
            Each file with what is wrong with it, or None, and the answers for those that could be read, in order; None
            where none could.
        """
        remaining = iter(files)
        while batch := list(islice(remaining, self.batch_size)):
            found = try_pictures(batch, self.model.inputs)
            images = [image for image in found if isinstance(image, Tensor)]
            wrong = [image if isinstance(image, UserError) else None for image in found]
            yield list(zip(batch, wrong, strict=True)), self._ask(torch.stack(images)) if images else None

    def _ask(self, images: Tensor) -> Answers:
        """The same of a batch, uint8 [n, C, H, W]."""
        rule = self.model.rule
        with torch.inference_mode():
            outputs = rule.observe(self.network, to_float(images.to(self.device)))
            scores = rule.scores(outputs.map(Tensor.cpu))
            nearest, knownness = scores.labels.numpy(), scores.knownness.double().numpy()
            probabilities = torch.softmax(scores.class_scores.double(), dim=1).numpy()
        if np.isnan(knownness).any() or np.isnan(probabilities).any():
            raise UserError(f"scoring rule '{rule.name}': its scores are not numbers: the network is broken")
        margin = knownness - self.thresholds[nearest]
        return Answers(np.where(margin >= 0, nearest, len(self.classes_)), nearest, knownness, margin, probabilities)


def load(
    path: str | Path, *, device: str = "auto", batch_size: int = INFERENCE_BATCH, plugins: Iterable[str] = ()
) -> OpenSetModel:
    """Open a trained model. It needs no images, no run folder and no network connection.

    Args:
        path: a model folder, or the folder of a retraining of one part, or of one part of it.
        device: auto, cpu, cuda or cuda:INDEX.
        batch_size: images in a forward pass.
        plugins: modules with your own classes that the model is made with; nothing in a model imports one by itself.

    Raises:
        UserError: there is no model, it is damaged, or a plug-in or the device is not there.
    """
    import_plugins(plugins)
    return OpenSetModel(open_model(path), device, batch_size)
