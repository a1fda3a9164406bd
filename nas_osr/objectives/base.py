"""The interface of every objective: a training loss together with the heads that it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nas_osr.data.dataset import LabelledImages
from nas_osr.data.protocols import Protocol
from nas_osr.data.sources.base import Shape
from nas_osr.errors import UserError
from nas_osr.objectives.parts.pooling import pool_layers
from nas_osr.objectives.parts.side_tasks import Remembering, RotPred, make_side_task
from nas_osr.outputs import FeatureShapes, Observed, Outputs

Batch = tuple[Tensor, Tensor]  # images [B, C, H, W] float in [0, 1] and labels [B] int64 in 0..N-1
Terms = dict[str, Tensor]  # weighted terms of a loss by name, each a scalar


class Objective(nn.Module):
    """A loss with its heads, on top of any encoder.

    Subclasses are built as `Objective(shapes, image_shape, num_classes, config)`, from the shapes of the encoder's maps
    and (C, H, W) of the images, with their own frozen dataclass `config`, which derives from `ObjectiveConfig` where a
    side task may be wished for. They make their heads in `build`, and
    implement `forward` and `losses`.

    Attributes:
        name: the registered name.
        config_class: the dataclass of the coefficients.
        provides: the fields of `Outputs` that `forward` fills.
        default_rule: the scoring rule to use when none is named.
        last_layer: the attribute that is the linear layer from `Outputs.embedding` to `Outputs.logits`; "" without one.
        side: the side task that `config` asks for, with its head; None without one.
        players: the parties of the weight update in order, each with its own optimiser; `main` owns the encoder. An
            instance may set its own.
        divisible: True when a batch may be divided among processes: its loss is the mean of its parts' losses, and what
            is random for each image comes through `draw`.
        share: (rank, ranks): this process is given the rank-th of so many equal parts of each batch.
        capturable: True when all of `losses` is computed on the device, with nothing random or decided in Python, so
            that a step can be captured as a CUDA graph; `progress` is a tensor there.
        follows_length: False when no coefficient follows `progress`, so that a longer training begins as a shorter one.
        makes_views: True when `losses` augments the images itself; it is then given images as they are.
        view_settings: the settings that say how, for messages.
    """

    name: ClassVar[str]
    config_class: ClassVar[type]
    provides: ClassVar[frozenset[str]]
    default_rule: ClassVar[str]
    last_layer: ClassVar[str] = ""
    capturable: ClassVar[bool] = False
    follows_length: ClassVar[bool] = True
    makes_views: ClassVar[bool] = False
    view_settings: ClassVar[tuple[str, ...]] = ()
    divisible: ClassVar[bool] = False
    players: tuple[str, ...] = ("main",)
    share: tuple[int, int] = (0, 1)

    def __init__(self, shapes: FeatureShapes, image_shape: Shape, num_classes: int, config: Any) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.num_classes = num_classes
        self.config = config
        self.build(shapes)
        self.side = make_side_task(config, self, shapes)

    def build(self, shapes: FeatureShapes) -> None:
        """Make the heads, over maps of these shapes."""

    @classmethod
    def defaults(cls, protocol: Protocol, phase: str) -> dict[str, Any]:
        """Coefficients for a protocol, in the phase "search" or "retrain", that differ from the config class's own."""
        return {}

    @classmethod
    def complete(cls, settings: Mapping[str, Any], protocol: Protocol, phase: str) -> dict[str, Any]:
        """A user's settings over `defaults`; for an objective some of whose defaults depend on other settings."""
        return {**cls.defaults(protocol, phase), **settings}

    @classmethod
    def select_classes(cls, config: Any, labels: Sequence[int], num_classes: int) -> Any:
        """The config for some of all known classes, which get the labels 0, 1 ... in this order; here: the same."""
        return config

    @classmethod
    def needs_outliers(cls, config: Any) -> bool:
        """Whether an objective with this config learns from given unknown images (`set_outliers`)."""
        return False

    @classmethod
    def follows(cls, config: Any) -> bool:
        """Whether a coefficient follows `progress` with this config; here: `follows_length`."""
        return cls.follows_length

    @classmethod
    def choose_augmentation(cls, asked: str | None, usual: str, option: str) -> str:
        """What is done to training images: what is asked for, or else the usual; none where it makes its own views.

        Args:
            option: what asks for it, for messages.

        Raises:
            UserError: something else than the usual is asked for, and the objective would not be given it.
        """
        if not cls.makes_views:
            return usual if asked is None else asked
        if asked not in (None, "none", usual):
            by = " and ".join(f"--objective_config.{name}" for name in cls.view_settings)
            raise UserError(
                f"{option}: objective {cls.name} makes its own views of images{by and f', by {by}'}: leave it out"
            )
        return "none"

    @property
    def loss_scale(self) -> float:
        """The weight of the leading term: recipes divide by it, so that learning rates mean the same everywhere."""
        return 1.0

    def player_parameters(self, player: str) -> list[nn.Parameter]:
        """The parameters of the objective itself that `player` updates (the encoder's are added to `main`'s)."""
        return list(self.parameters()) if player == "main" else []

    def make_optimizer(self, player: str, parameters: list[nn.Parameter]) -> torch.optim.Optimizer | None:
        """The optimiser of a player whose paper prescribes one, at a constant learning rate; None leaves the choice."""
        return None

    def check_training(self) -> None:
        """UserError where the encoder's maps are too little to learn from; asked before a training begins, and not
        where a trained network is used."""

    def attach(self, encoder: nn.Module) -> None:
        """Look at the encoder that a `Learner` joins with this objective, before any training (MoCo copies it).

        Called by every `Learner`. The first encoder is the one that learns; a search joins others for inference only.
        """

    def prepare(self, images: LabelledImages, seed: int) -> dict[str, float]:
        """Learn what the training takes as given, once before its first step; what to log of it.

        Args:
            images: the known training images (searching: the weight half), on the objective's device.
            seed: decides everything random in it.
        """
        return {}

    def set_outliers(self, images: Tensor) -> None:
        """Take the given unknown images, uint8 [n, C, H, W]; they are no part of the state. UserError by default."""
        raise UserError(f"objective {self.name} takes no outlier images as it is set: leave --outliers out")

    def draw(self, make: Callable[[int], Tensor], count: int) -> Tensor:
        """Random rows [count, ...] for the `count` images of this part of a batch, the same however it is divided.

        `make` turns a number into so many rows from torch's global generator, which all processes seed alike.
        """
        rank, ranks = self.share
        return make(count * ranks)[rank * count : (rank + 1) * count]

    def forward(self, encoder: nn.Module, images: Tensor) -> Outputs:
        """Inference. images: [B, C, H, W] float in [0, 1]."""
        raise NotImplementedError

    def infer(self, encoder: nn.Module, images: Tensor, whole: bool = False) -> Outputs:
        """What `forward` says; `whole` is with what `Observed` has besides, for a rule that asks the network itself."""
        if not whole:
            return self(encoder, images)  # type: ignore[no-any-return]
        seen = Remembering(encoder)
        outputs = self(seen, images)
        assert seen.first is not None
        turns = self.side.answer(seen.first) if isinstance(self.side, RotPred) else None
        return Observed(**vars(outputs), layers=pool_layers(seen.first), turns=turns)

    def linear_head(self) -> tuple[Tensor, Tensor]:
        """W [N, D] and b [N] of `Outputs.logits` = W `Outputs.embedding` + b. AttributeError without a `last_layer`."""
        layer = getattr(self, self.last_layer)
        return layer.weight, layer.bias

    def reconstruct(self, encoder: nn.Module, images: Tensor) -> Tensor | None:
        """Images [B, C, H, W] in [0, 1] as the objective's decoder draws them, float32; None where it has none."""
        return None

    def losses(self, encoder: nn.Module, batch: Batch, player: str = "main", progress: float | Tensor = 1.0) -> Terms:
        """The weighted terms of the loss; their sum is minimised.

        What is random in them comes from torch's global generator, which is seeded for every epoch.

        Args:
            player: one of `players`.
            progress: share of the training done, in [0, 1]; schedules of coefficients follow it. A float64 scalar on
                the device in a captured step.
        """
        raise NotImplementedError

    def training_terms(
        self, encoder: nn.Module, batch: Batch, player: str = "main", progress: float | Tensor = 1.0
    ) -> Terms:
        """What a step minimises: `losses` and, for `main`, the side task's term. Arguments as of `losses`."""
        if self.side is None or player != "main":
            return self.losses(encoder, batch, player, progress)
        return self.side.terms(self, encoder, batch, progress)

    def validation_terms(self, encoder: nn.Module, batch: Batch) -> Terms:
        """What a training watches on known validation images, in eval mode; less of their sum is better.

        Here: the terms of the whole loss, at the end of its schedules.
        """
        return self.losses(encoder, batch)
