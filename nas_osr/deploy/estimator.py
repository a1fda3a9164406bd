"""scikit-learn's interface to training: `nas_osr.OpenSetClassifier(...).fit(X, y)`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from nas_osr.configuration import make_request
from nas_osr.deploy.in_memory import train_in_memory
from nas_osr.deploy.pictures import split_axes
from nas_osr.deploy.predictor import UNKNOWN, OpenSetModel
from nas_osr.files.paths import user_path
from nas_osr.plugins import DOTTED
from nas_osr.retrain.build import resolve_architecture
from nas_osr.retrain.model import write_model
from nas_osr.retrain.networks import NETWORKS
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.search_spaces.presets import get_preset


class OpenSetClassifier(ClassifierMixin, BaseEstimator):
    """A network that is trained on images of known classes, and says of others that they are of none of them.

    X is an array of images, [n, H, W], [n, H, W, C] or [n, C, H, W] with C 1 or 3, or flat: [n, H * W] of square ones,
    or of any with `image_shape`. A flat row that is no square is filled up with zeros. Values of uint8 are taken as
    they are, floats in [0, 1] as shares; from anything else the least and the largest value of the training images
    become 0 and 1. Whatever `fit` is given, the others must be given alike. The network is given images whose sides are
    the next multiples of 16.

    A tenth of the images of each class is held out to set the threshold.

    Args:
        network: a baseline network by name (resnet18, plain:width=32, timm:NAME ...), a dotted path of your own, or an
            architecture: "published", "random:SEED", a file, a run folder, or a value.
        objective, rule, recipe, epochs, batch_size: as `nas-osr retrain` has them; None is the preset's, or the
            objective's own rule.
        preset: fixes what is left open: tiny, small or paper.
        image_shape: (C, H, W) of flat rows.
        mirror: whether a mirrored image shows the same class, so that it may be learned from; digits do not.
        unknown_label: what `predict` says of an image of no known class. None: -1 where labels are numbers, "unknown"
            where they are anything else.
        device: auto, cpu, cuda or cuda:INDEX.
        random_state: decides everything random: a whole number, a RandomState, or None.
        options: more options of `nas-osr retrain`, such as {"objective_config": {"temperature": 6.0}}.

    Attributes:
        classes_: [N] the known labels, sorted, of the type that they were given in.
        unknown_label_: what `predict` says of an image of none of them.
        model_: an `OpenSetModel`; its class names are the labels as text.
        history_: a record of each epoch.
        scale_: the values that became 0 and 1.
    """

    def __init__(
        self,
        network: Any = "published",
        *,
        objective: str = "cross_entropy",
        rule: str | None = None,
        recipe: str | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        preset: str = "small",
        image_shape: tuple[int, int, int] | None = None,
        mirror: bool = False,
        unknown_label: Any = None,
        device: str = "auto",
        random_state: Any = 0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.network = network
        self.objective = objective
        self.rule = rule
        self.recipe = recipe
        self.epochs = epochs
        self.batch_size = batch_size
        self.preset = preset
        self.image_shape = image_shape
        self.mirror = mirror
        self.unknown_label = unknown_label
        self.device = device
        self.random_state = random_state
        self.options = options

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.classifier_tags.poor_score = True  # of a few epochs; a test of its own looks at accuracy
        return tags

    def fit(self, X: Any, y: Any) -> OpenSetClassifier:
        """Train on images X of the classes y [n]; at least two of each.

        Raises:
            ValueError: X or y is not as described, or `unknown_label` is one of the labels.
            UserError: an option is wrong, or the training diverges.
        """
        X, y = validate_data(self, X, y, allow_nd=True)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        counts = np.bincount(labels)
        if len(self.classes_) < 2:
            raise ValueError(f"y has one class, {self.classes_[0]!r}: at least 2 classes are needed")
        names = [str(label) for label in self.classes_.tolist()]
        if counts.min() < 2:
            raise ValueError(f"class {names[counts.argmin()]} has one image: at least 2 are needed")
        numbers = self.classes_.dtype.kind in "buif"
        self.unknown_label_ = (-1 if numbers else UNKNOWN) if self.unknown_label is None else self.unknown_label
        if (np.asarray(self.unknown_label_).dtype.kind in "buif") != numbers:
            kind = "a number" if numbers else "text"
            raise ValueError(f"unknown_label {self.unknown_label_!r} must be {kind}, as the labels are")
        if (self.classes_ == self.unknown_label_).any():
            raise ValueError(f"unknown_label {self.unknown_label_!r} is one of the classes: give another one")
        self._shape = X.shape[1:]
        shares = X.dtype == np.uint8 or (X.dtype.kind == "f" and X.min() >= 0 and X.max() <= 1)
        self.scale_ = (0.0, 255.0 if X.dtype == np.uint8 else 1.0) if shares else (float(X.min()), float(X.max()))
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        model, epochs = train_in_memory(
            self._images(X), torch.from_numpy(labels).long(), names, self._request(), int(seed), mirrors=self.mirror
        )
        self.model_ = OpenSetModel(model, self.device)
        self.history_ = epochs.records
        return self

    def predict(self, X: Any) -> np.ndarray:
        """[n] labels of the type of `classes_`, or `unknown_label_` (booleans become 0 and 1 beside -1)."""
        labels = self._ask(X).labels
        return np.append(self.classes_, self.unknown_label_)[labels]

    def predict_proba(self, X: Any) -> np.ndarray:
        """[n, N] in the order of `classes_`; see `OpenSetModel.predict_proba`."""
        return self._ask(X).probabilities

    def decision_function(self, X: Any) -> np.ndarray:
        """[n] knownness minus the threshold: an image counts as known from 0 on.

        It says nothing of the class: scorers that take it for that, such as roc_auc of two classes, do not apply.
        """
        return self._ask(X).margin

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy; every label that is none of `classes_` stands for an unknown image."""
        check_is_fitted(self)
        y = np.asarray(y)
        truth = np.append(self.classes_, self.unknown_label_)[
            np.where(np.isin(y, self.classes_), np.searchsorted(self.classes_, y), len(self.classes_))
        ]
        return super().score(X, truth, sample_weight)

    def save(self, folder: str | Path) -> None:
        """Write a model folder, which `nas_osr.load` and the command line open. Raises UserError."""
        check_is_fitted(self)
        write_model(user_path(folder), self.model_.model)

    def _ask(self, X: Any) -> Any:
        check_is_fitted(self)
        X = validate_data(self, X, allow_nd=True, reset=False)
        if X.shape[1:] != self._shape:
            raise ValueError(f"X has images of shape {X.shape[1:]}, {type(self).__name__} was fitted on {self._shape}")
        as_bytes, as_shares = self.scale_ == (0.0, 255.0), self.scale_ == (0.0, 1.0)
        if (as_bytes and X.dtype.kind == "f" and 0 < X.max() <= 1) or (
            as_shares and X.dtype == np.uint8 and X.max() > 1
        ):
            raise ValueError(
                f"X has values of type {X.dtype} up to {X.max():g}, and fit was given ones up to {self.scale_[1]:g}: "
                "give both alike"
            )
        return self.model_.ask(self._images(X))

    def _request(self) -> RetrainRequest:
        """What is trained, and how. Raises UserError."""
        is_network = names_network(self.network)
        request = make_request(
            RetrainRequest,
            {
                **{name: getattr(self, name) for name in ("objective", "rule", "recipe", "epochs", "batch_size")},
                **{name: getattr(self, name) for name in ("preset", "device")},
                "quiet": True,
                **({"network": self.network} if is_network else {}),
                **(self.options or {}),
            },
            type(self).__name__,
        )
        if is_network:
            return request
        preset = get_preset(self.preset)
        architecture = resolve_architecture(
            self.network, preset.space, request.channels or preset.retrain_channels, request.stem
        )
        found: dict[str, Any] = {}  # where it was found is nothing to be taken over
        return replace(request, architecture=replace(architecture, found=found).to_dict(), channels=0, stem=None)

    def _images(self, X: np.ndarray) -> Tensor:
        """uint8 [n, C, H, W] of the size that X has."""
        low, high = self.scale_
        values = (X.astype(np.float64) - low) / ((high - low) or 1.0)
        images = np.rint(np.clip(values, 0.0, 1.0) * 255).astype(np.uint8)
        if images.ndim == 2:
            images = self._unflatten(images)
        elif images.ndim == 3:
            images = images[:, None]
        return torch.from_numpy(split_axes(images, images.shape[1]))

    def _unflatten(self, rows: np.ndarray) -> np.ndarray:
        """[n, C, H, W] of [n, features]; ValueError when they do not fit `image_shape`."""
        count, features = rows.shape
        if self.image_shape is not None:
            if math.prod(self.image_shape) != features:
                raise ValueError(f"image_shape {self.image_shape} has not the {features} features of X")
            return rows.reshape(count, *self.image_shape)
        side = math.isqrt(features - 1) + 1
        return np.pad(rows, ((0, 0), (0, side * side - features))).reshape(count, 1, side, side)


def names_network(value: Any) -> bool:
    """Whether what is to be trained is a network by its name or dotted path, and no architecture."""
    if not isinstance(value, str):
        return False
    name = value.partition(":")[0]
    dotted = DOTTED.fullmatch(name) and not value.endswith((".json", ".graphml")) and not user_path(value).exists()
    return name in {*NETWORKS, "timm"} or bool(dotted)
