"""What a user asks of a retraining. Free of torch, so that the command line can show its help at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from nas_osr.configuration import Checked, ClassNames, DataPath, Numbers, UserPath
from nas_osr.data.protocols import Protocol
from nas_osr.data.rehearsal import rehearse
from nas_osr.data.tasks import FAMILIES, PROTOCOLS
from nas_osr.objectives import OBJECTIVES
from nas_osr.option_docs import NOT_NEGATIVE, Choices, Range
from nas_osr.requests import DataOptions, DeviceOptions, RunRequest, ScheduleOptions
from nas_osr.retrain.networks import NETWORKS
from nas_osr.search_spaces.presets import PRESETS
from nas_osr.search_spaces.spaces import SPACES
from nas_osr.search_spaces.stems import STEMS
from nas_osr.training.recipes import RECIPES


@dataclass
class RecipeOptions(Checked):
    """How a network is trained."""

    recipe: Annotated[str | None, Choices(RECIPES)] = None
    "optimiser, schedule and augmentation; the preset's when not given."
    recipe_config: dict[str, Any] = field(default_factory=dict)
    "settings of the recipe, for example --recipe_config.learning_rate 0.1."


@dataclass
class TrainingOptions(RecipeOptions):
    """What is trained, and how."""

    architecture: Any = None
    "run folder of a search, a .json or .graphml file, published, random:SEED, or the value itself."
    network: Annotated[str | None, Choices(NETWORKS, plugins=True)] = None
    "instead of an architecture: a baseline network, timm:NAME, or your own torch.nn.Module."


@dataclass
class NetworkOptions(RecipeOptions, ScheduleOptions, DataOptions):
    """Which architecture is trained, and on what; what is open is the search's, or else a default."""

    protocol: Annotated[str | None, Choices(PROTOCOLS, plugins=True)] = None  # type: ignore[assignment]
    "which data set and which classes are known; the search's, or cifar10."
    family: Annotated[str | None, Choices(FAMILIES)] = None  # type: ignore[assignment]
    "family of the published class splits; the search's, or arpl."
    limit_per_class: Annotated[int | None, Range(2, or_zero=True)] = None
    "use only so many images of each class; the search's. 0 is all, where the search had a limit."
    preset: Annotated[str | None, Choices(PRESETS)] = None  # type: ignore[assignment]
    "fixes what is left open; the search's, or small."
    architecture: Any = "published"
    "run folder of a search, a .json or .graphml file, published, random:SEED, or the value itself."
    channels: Annotated[int | None, NOT_NEGATIVE] = None
    "channels C at 1/4 resolution; 0 is the architecture's own width. The preset's when not given."
    stem: Annotated[str | None, Choices(STEMS, plugins=True)] = None
    "another stem than the architecture's."
    space: Annotated[str | None, Choices(SPACES, plugins=True)] = None
    "what random:SEED is drawn from; paper when not given."


@dataclass
class RetrainRequest(NetworkOptions, RunRequest):
    """Train a found architecture, or a baseline network, on all known classes, and evaluate it.

    The architecture of a search is trained on what was searched for: protocol, known classes, split, images, objective
    with its settings, rule and preset are the search's unless they are given.
    """

    objective: Annotated[str | None, Choices(OBJECTIVES, plugins=True)] = None
    "training loss; the search's, or the preset's: cross_entropy of small, vae_contrastive of paper and tiny."
    network: Annotated[str | None, Choices(NETWORKS, plugins=True)] = None
    """instead of an architecture: a baseline network (with settings as in plain:width=64), timm:NAME, or your own
    torch.nn.Module."""
    weights: str | None = None
    "what that network begins with: a file (safetensors, or of torch.save), or pretrained, from timm's hub."
    init: UserPath | None = None
    "begin with the weights of this finished retraining or model folder, whose network is the same; not from scratch."
    out: UserPath = "runs/retrain"
    "folder of the run."
    splits: Numbers | None = None
    "class splits, such as 0, 0-4 or 0,2, each a sub-folder of `out`; the search's, or 0."
    seeds: Numbers = "0"
    "seeds, such as 0 or 0-2; each split is trained once a seed."
    pseudo_unknown: ClassNames | None = None
    """rehearse: these known classes play the unknown and training images the test, to choose settings by; no test image
    is opened."""
    bootstrap: Annotated[int, NOT_NEGATIVE] = 1000
    "resamples for the confidence intervals of the metrics."

    def protocol_of(self, split: int) -> Protocol:
        """What is retrained on this split: its protocol, or the rehearsal of it. Raises UserError."""
        protocol = self.published_protocol(split)
        return protocol if self.pseudo_unknown is None else rehearse(protocol, self.pseudo_unknown)


@dataclass
class FinishedOptions(Checked):
    """Which retraining."""

    run: UserPath
    "folder of one retraining, or of several (`split-0` ...)."


@dataclass
class ReopenOptions(DeviceOptions):
    """How a finished retraining is opened again."""

    data_dir: DataPath | None = None
    "folder of the images, where it is not the run's."
    skip_broken: bool = False
    "pass over image files that cannot be read, and say how many; the run may have said so already."
    plugin: list[str] = field(default_factory=list)
    "modules with your own classes that the run was made with; a run folder by itself imports nothing."


@dataclass
class EvaluateRequest(ReopenOptions, FinishedOptions):
    """Evaluate a retrained network again from its saved model: rule, threshold and every figure are computed anew.

    Results under another unknown source or rule, or with --mirrored or --one_sided, are written beside the run's own,
    as metrics-LABEL.json.
    """

    unknown: str | None = None
    "a source whose test images all play the unknown, or the path of a folder of images, instead of the protocol's."
    rule: str | None = None
    """another scoring rule than the run's; several as mls,energy; all is every shipped one that can be used, also in a
    list; pytorch_ood.NAME is a detector of pytorch-ood."""
    rule_config: dict[str, Any] = field(default_factory=dict)
    "settings of the rule, where it is one."
    mirrored: bool = False
    "average the outputs for each image and its mirror image, as recipe strong does by itself; twice the time."
    one_sided: bool = False
    "look at each image as it is alone, where the run's recipe averages over mirror images."
    embeddings: bool = False
    "write what the network makes of training and test images to embeddings.npz, too."
    bootstrap: Annotated[int, NOT_NEGATIVE] = 1000
    "resamples for the confidence intervals of the metrics; 0 leaves them out."
    json: bool = False
    "print the result as one JSON object."
