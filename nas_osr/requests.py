"""What a user asks of a run: small groups of options, of which each command's request is made. Free of torch.

A request inherits the groups that it needs, so that an option is described once, under its field; --help shows each
group under the first line of its docstring. `recorded` is what config.yaml holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from nas_osr.configuration import Checked, ClassNames, DataPath, UserPath, make_request, parse_range
from nas_osr.data.protocols import Protocol, make_protocol
from nas_osr.data.sources import open_source, source_class
from nas_osr.data.tasks import FAMILIES, PROTOCOLS, find_task
from nas_osr.errors import UserError
from nas_osr.objectives import OBJECTIVES
from nas_osr.option_docs import NOT_NEGATIVE, POSITIVE, SEEDS, THREADS, Choices, Range
from nas_osr.scoring import BRIDGE, RULES
from nas_osr.search_spaces.operations import ACTIVATIONS, OPERATIONS
from nas_osr.search_spaces.presets import PRESETS
from nas_osr.search_spaces.space import POOLINGS
from nas_osr.search_spaces.spaces import SPACES
from nas_osr.search_spaces.stems import STEMS

# Where a run goes and how it talks: no part of what is computed, so not written into config.yaml.
NOT_RECORDED = frozenset({"out", "resume", "overwrite", "dry_run", "json", "quiet", "checkpoint_minutes", "logger"})


@dataclass
class ProtocolOptions(Checked):
    """Which classes are known, and where the images are."""

    protocol: Annotated[str, Choices(PROTOCOLS, plugins=True)] = "cifar10"
    "which data set and which classes are known; `nas-osr data list` shows more of them."
    family: Annotated[str, Choices(FAMILIES)] = "arpl"
    "family of the published class splits."
    known: ClassNames | None = None
    """explicit known classes by name, or lists of them to merge; official label numbers where no class is called by a
    number. A name with a comma stands in quotes. Of own folders all that have training images, when not given."""
    unknown: ClassNames | None = None
    "explicit unknown classes by name; all others when not given."
    class_seed: Annotated[int | None, SEEDS] = None
    "draw the known classes from this seed instead."
    data_dir: DataPath | None = None
    "folder of the images; the environment variable NAS_OSR_DATA when not given."
    image_size: Annotated[int | None, Range(16)] = None
    "side in pixels, a multiple of 16, to which own images are scaled; 32 where all are so small, 64 when not given."
    grey: bool | None = None
    "whether own images are read as grey ones; told by the images when not given."

    def published_protocol(self, split: int) -> Protocol:
        """The protocol that is named, on this split. Raises UserError."""
        return make_protocol(
            self.protocol,
            split,
            family=self.family,
            known=self.known,
            unknown=self.unknown,
            seed=self.class_seed,
            data_dir=self.data_folder,
            image_size=self.image_size,
            grey=self.grey,
        )

    @property
    def data_folder(self) -> Path | None:
        """The folder of images that is named, or None for the environment's."""
        return None if self.data_dir is None else Path(self.data_dir)


Request = TypeVar("Request", bound=ProtocolOptions)


def write_down(request: Request, split: int) -> Request:
    """The request with its classes by name, and with what a folder of own images tells of them.

    So a run stays what it is when its folder gets another class. Raises UserError.
    """
    protocol = request.published_protocol(split)
    own = not source_class(protocol.source).numbered
    found: dict[str, Any] = {}
    if own:
        source = open_source(protocol.source, request.data_folder)
        used = source.ids([*protocol.known_classes, *protocol.unknown])  # UserError: one that is not there
        if request.known is not None and request.unknown is not None:  # nobody has looked into the folder so far
            source.say_what_is_left(used)
        found = {"image_size": protocol.image_shape[1], "grey": protocol.image_shape[0] == 1}
    if own or request.known is not None:
        found["known"] = [group[0] if len(group) == 1 else list(group) for group in protocol.known]
    if own or request.unknown is not None:
        found["unknown"] = list(protocol.unknown)
    return replace(request, **found)


def name_former_classes(kind: type[ProtocolOptions], record: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The record of a run as it is today; earlier versions numbered classes, and labels that play the unknown.

    Args:
        kind: the request that it records.
        where: its file, for messages.

    Raises:
        UserError: it is of own images, whose classes had the number of their place in the folder.
    """
    if "image_size" in record or not isinstance(record.get("protocol"), str):
        return dict(record)
    if not source_class(find_task(record["protocol"]).source).numbered:
        known = record.get("known") or [0]
        if record.get("class_seed") is not None or any(str(name).isdecimal() for name in known):
            raise UserError(
                f"{where}: of an earlier version, for which a class of own images was its place in the folder: run it "
                "again"
            )
        return {**record, "image_size": 32, "grey": False, "pseudo_unknown": None}
    split = parse_range("split", record.get("splits", record.get("split", 0)))[0]
    names = {item.name for item in fields(ProtocolOptions)}
    request = make_request(kind, {name: value for name, value in record.items() if name in names}, where)
    named = {"image_size": None, "known": write_down(request, split).known}
    if record.get("pseudo_unknown") is not None:
        labels = request.published_protocol(split).class_names
        named["pseudo_unknown"] = [labels[int(label)] for label in record["pseudo_unknown"]]
    return {**record, **named}


@dataclass
class DataOptions(ProtocolOptions):
    """Which classes are known, and which images are used."""

    limit_per_class: Annotated[int | None, Range(2)] = None
    "use only so many images of each class."
    skip_broken: bool = False
    "pass over image files that cannot be read, and say how many; otherwise they end the run."


@dataclass
class LossOptions(Checked):
    """What is learned."""

    objective: Annotated[str | None, Choices(OBJECTIVES, plugins=True)] = None
    "training loss; the preset's when not given: cross_entropy of small, vae_contrastive of paper and tiny."
    objective_config: dict[str, Any] = field(default_factory=dict)
    "coefficients of the objective, for example --objective_config.temperature 6."
    plugin: list[str] = field(default_factory=list)
    "modules with your own classes, for an architecture that names one of them."


@dataclass
class ObjectiveOptions(LossOptions):
    """What is learned, and how it is judged."""

    rule: Annotated[str | None, Choices(RULES, plugins=True, besides=f"{BRIDGE}NAME")] = None
    "scoring rule; the objective's default when not given."
    rule_config: dict[str, Any] = field(default_factory=dict)
    "settings of the rule, for example --rule_config.acceptance 0.9."
    outliers: str | None = None
    "source whose training images serve objectives that learn from given unknown images."


@dataclass
class PresetOptions(Checked):
    """What fixes the sizes."""

    preset: Annotated[str, Choices(PRESETS)] = "small"
    "fixes what is left open."
    batch_size: Annotated[int, POSITIVE] | Literal["auto"] | None = None
    """images a step, of all processes together where torchrun starts several; auto, of a search or retraining: up to
    four times the preset's as memory allows, with learning rates to match, or the preset's on a CPU."""

    def batch_or(self, usual: int) -> int:
        """The batch that is asked for, or the usual one where it is open or is still to be picked."""
        return self.batch_size if isinstance(self.batch_size, int) else usual


@dataclass
class ScheduleOptions(PresetOptions):
    """How long, and in which steps."""

    epochs: Annotated[int | None, POSITIVE] = None
    "passes over the training images (searching: over the weight half)."


@dataclass
class SpaceOptions(Checked):
    """What an architecture is searched in; the preset's where not given."""

    space: Annotated[str | None, Choices(SPACES, plugins=True)] = None
    "what is chosen from: paper's operations and paths, or wide, with more operations and choices of the whole network."
    layers: int | None = None
    "cell layers L."
    channels: int | None = None
    "channels C at 1/4 resolution."
    operations: Annotated[list[str] | None, Choices(OPERATIONS, plugins=True)] = None
    "candidates of each cell."
    branches: list[int] | None = None
    "scales that leave the encoder; 2 always."
    stem: Annotated[str | None, Choices(STEMS, plugins=True)] = None
    "how images come to 1/4 resolution: strided is the paper's, pooled has 3x3 convolutions, then pooling."
    stems: Annotated[list[str] | None, Choices(STEMS, plugins=True)] = None
    "stems to choose from; none: `stem` it is."
    activations: Annotated[list[str] | None, Choices(ACTIVATIONS)] = None
    "activations to choose from; none: leaky_relu it is."
    poolings: Annotated[list[str] | None, Choices(POOLINGS)] = None
    "poolings under the head to choose from; none: average it is."
    outputs: Annotated[list[int] | None, Range(1, 2)] = None
    "scales of which one is the output, 1 or 2; none: 2 it is."
    widths: Annotated[list[float] | None, Range(0, 1, above=True)] = None
    "factors on the channels, of which each scale chooses one; none: 1 it is."
    two_inputs: bool | None = None
    "whether a cell may take the sum of both its in-edges."


@dataclass
class DeviceOptions(Checked):
    """Where it is computed."""

    device: str = "auto"
    "auto, cpu, cuda or cuda:INDEX."
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    """of the computation. auto is what a run has begun with; of a new one bf16-mixed on a GPU that has it, and on a CPU
    with avx512_bf16 or AMX unless the preset is tiny."""
    threads: Annotated[int, THREADS] = 0
    "CPU threads of a process; 0 leaves torch's choice."


@dataclass
class MachineOptions(DeviceOptions):
    """Where it is computed, and how."""

    deterministic: bool = False
    "use algorithms on the GPU that give the same bits every time, where there are slower ones."
    checkpointing: bool = False
    "compute the inside of cells again in the backward pass instead of keeping it: saves memory."
    compile: bool = False
    "compile the encoder with torch.compile; the first steps take minutes."
    graphs: Literal["auto", "on", "off"] = "auto"
    "capture training steps as CUDA graphs and replay them; auto does so on a GPU where it is possible."


@dataclass
class OutputOptions(Checked):
    """Where a run goes, and how it talks."""

    out: UserPath = "runs/new"
    "folder of the run."
    resume: Literal["no", "auto"] = "no"
    "auto continues what is in `out`; no starts afresh."
    overwrite: bool = False
    "replace finished runs in `out`."
    dry_run: bool = False
    "print what would run, with an estimate of its time and memory, and stop."
    json: bool = False
    "print the result as one JSON object."
    quiet: bool = False
    "print no progress."

    def recorded(self) -> dict[str, Any]:
        """What config.yaml holds: the fields that decide the result, as plain values."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name not in NOT_RECORDED}


@dataclass
class SavingOptions(OutputOptions):
    """Where a run goes, how it talks, and how often it saves."""

    checkpoint_minutes: Annotated[float, NOT_NEGATIVE] = 10.0
    "save so often inside an epoch, besides at its end; 0 is at the end only."
    logger: Literal["none", "mlflow", "wandb"] = "none"
    "where figures go besides the folder, in which TensorBoard finds them: MLflow, or Weights & Biases."


@dataclass
class RunRequest(SavingOptions, MachineOptions, ScheduleOptions, ObjectiveOptions, DataOptions):
    """Options of every run."""
