"""`nas-osr bench`: what the steps of a search and of a retraining cost on this machine."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from nas_osr.cli.show import show_json, show_table
from nas_osr.configuration import check_choice, check_positive
from nas_osr.errors import UserError
from nas_osr.requests import DataOptions

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from nas_osr.data.protocols import Protocol

PHASES = ("both", "search", "retrain")
GIB = 2**30


@dataclass
class BenchConfig(DataOptions):
    """Measure what a training step costs: seconds, images/s, memory, FLOPs and the share of this machine's peak.

    Random images of the protocol's shape are used; no data set is needed. docs/performance.md explains the columns.

    Args:
        split: the class split.
        classes: number of known classes instead of the protocol's.
        image_size: side of the images in pixels instead of the protocol's; a multiple of 16.
        phase: which steps: both, search or retrain.
        objective: training loss, by name or dotted path.
        objective_config: coefficients of the objective, for example --objective_config.temperature 6.
        plugin: modules with your own classes.
        preset: paper, small or tiny: fixes what is left open.
        layers: cell layers L of the search space.
        channels: channels C at 1/4 resolution of the search space.
        operations: candidates of each cell, by name or dotted path.
        branches: scales that leave the encoder; 2 always.
        stem: how images come to 1/4 resolution, of the space and of the network that is retrained: strided or pooled.
        architecture: what is retrained: run folder of a search, architecture.json, published, or random:SEED, which is
            drawn from the search space.
        network: a baseline network instead of an architecture: cac, dhrnet, resnet18, resnet34, resnet50, vgg13.
        retrain_channels: channels C of a retrained architecture; 0 is the architecture's own width.
        recipe: optimiser, schedule and augmentation of a retraining: fast, paper, cac or adam.
        recipe_config: settings of the recipe, for example --recipe_config.augmentation none.
        batch_size: images a step.
        steps: measured steps of each kind; medians are shown.
        warmup: steps of each kind before them that do not count.
        device: auto, cpu, cuda or cuda:INDEX.
        precision: auto, 32-true or bf16-mixed.
        threads: CPU threads; 0 leaves torch's choice.
        checkpointing: compute the inside of cells again for the backward pass instead of keeping it.
        compile: compile the encoder with torch.compile.
        json: print the result as one JSON object.
    """

    split: int = 0
    classes: int | None = None
    image_size: int | None = None
    phase: str = "both"
    objective: str = "vae_contrastive"
    objective_config: dict[str, Any] = field(default_factory=dict)
    plugin: list[str] = field(default_factory=list)
    preset: str = "small"
    layers: int | None = None
    channels: int | None = None
    operations: list[str] | None = None
    branches: list[int] | None = None
    stem: str | None = None
    architecture: str | None = None
    network: str | None = None
    retrain_channels: int | None = None
    recipe: str | None = None
    recipe_config: dict[str, Any] = field(default_factory=dict)
    batch_size: int | None = None
    steps: int = 5
    warmup: int = 2
    device: str = "auto"
    precision: str = "auto"
    threads: int = 0
    checkpointing: bool = False
    compile: bool = False
    json: bool = False


def bench(config: BenchConfig, command: list[str]) -> None:
    """Measure as configured and print a table: a row for each kind of step."""
    result = run_bench(config)
    if config.json:
        show_json(result)
        return
    show_table(table(result))
    for line in notes(result):
        print(line)


def run_bench(config: BenchConfig) -> dict[str, Any]:
    """Measure as configured; torch's random state and its CPU threads are left as they were.

    Returns:
        steps and warmup; device, device_name, precision and cpu_threads; protocol, image_shape, objective, preset;
        search and retrain, as far as asked for: what `nas_osr.strategies.bilevel.bilevel_steps.benchmark_search` and
        `nas_osr.retrain.retrain_steps.benchmark_retrain` return.

    Raises:
        UserError: anything in the request is wrong, or it does not fit into the GPU's memory.
    """
    import torch

    from nas_osr.cost.steps import leave_no_trace
    from nas_osr.plugins import import_plugin
    from nas_osr.search_spaces.prepare import check_compiler
    from nas_osr.training.fabric import describe_fabric, make_fabric

    for module in config.plugin:
        import_plugin(module)
    check_request(config)
    protocol = bench_protocol(config)
    with leave_no_trace():
        fabric = make_fabric(config.device, config.precision, config.threads)
        if config.compile:
            check_compiler(fabric.device)
        try:
            measured = measure(config, protocol, fabric)
        except torch.cuda.OutOfMemoryError as error:
            raise UserError(f"{fabric.device} is out of memory: choose a smaller batch_size or preset") from error
        about = describe_fabric(fabric)
    return {
        "protocol": protocol.name,
        "image_shape": list(protocol.image_shape),
        "objective": config.objective,
        "preset": config.preset,
        "steps": config.steps,
        "warmup": config.warmup,
        **about,
        **measured,
    }


def check_request(config: BenchConfig) -> None:
    """UserError when options are out of range or contradict each other."""
    check_choice(config, "phase", PHASES)
    check_positive(config, "steps")
    if config.warmup < 0:
        raise UserError(f"warmup must not be negative, got {config.warmup}")
    if config.classes is not None and config.classes < 2:
        raise UserError(f"classes must be at least 2, got {config.classes}")
    if config.network is not None and config.architecture is not None:
        raise UserError("architecture and network are both given: leave one of them out")


def bench_protocol(config: BenchConfig) -> Protocol:
    """The protocol that is asked for, with the number of classes and the image size that are. Raises UserError."""
    protocol = config.published_protocol(config.split)
    if config.classes is not None:
        known = tuple((label,) for label in range(config.classes))
        protocol = replace(protocol, known=known, known_names=(), pseudo_unknown=None)
    if config.image_size is not None:
        protocol = replace(protocol, image_shape=(protocol.image_shape[0], config.image_size, config.image_size))
    return protocol


def measure(config: BenchConfig, protocol: Protocol, fabric: Fabric) -> dict[str, Any]:
    """The phases that are asked for, one after the other, so that one's memory is free before the next."""
    from nas_osr.retrain.retrain_request import RetrainRequest
    from nas_osr.retrain.retrain_steps import benchmark_retrain
    from nas_osr.retrain.retrain_steps import check_request as check_retrain
    from nas_osr.search_spaces.architectures.references import load_architecture
    from nas_osr.strategies.bilevel.bilevel_steps import benchmark_search
    from nas_osr.strategies.search_request import SearchRequest

    search_config = SearchRequest(**shared(config, SearchRequest)).resolved()
    given = shared(config, RetrainRequest)
    if config.network is None:
        architecture = load_architecture(config.architecture or "random:0", search_config.space())
        given["architecture"] = architecture.to_dict()
        # what the search space was given by hand is also the width that is retrained
        given["channels"] = config.channels if config.retrain_channels is None else config.retrain_channels
    elif config.retrain_channels is not None:
        raise UserError(f"retrain_channels is the width of an architecture: network {config.network} has its own")
    else:
        given |= {"architecture": None, "channels": None}
    retrain_config = check_retrain(RetrainRequest(**given), protocol)  # before a search is measured, which takes long
    measured: dict[str, Any] = {}
    if config.phase != "retrain":
        measured["search"] = benchmark_search(search_config, protocol, fabric, config.steps, config.warmup)
    if config.phase != "search":
        measured["retrain"] = benchmark_retrain(retrain_config, protocol, fabric, config.steps, config.warmup)
    return measured


def shared(config: BenchConfig, target: type) -> dict[str, Any]:
    """The options that another configuration has, too."""
    names = {item.name for item in fields(config)} & {item.name for item in fields(target)}
    return {name: getattr(config, name) for name in names}


def table(result: dict[str, Any]) -> list[list[str]]:
    """A row for each kind of step."""
    rows = [
        [
            "step", "images", "seconds", "images/s", "GFLOP", "GMAC/image", "of peak", "memory GiB", "overhead",
            "augmentation", "of step",
        ]
    ]  # fmt: skip
    for phase in ("search", "retrain"):
        if phase not in result:
            continue
        for name, step in result[phase]["steps"].items():
            rows.append(
                [
                    *cost_cells(name, step),
                    f"{step['peak_memory_bytes'] / GIB:.2f}",
                    f"{100 * step['overhead']:+.1f} %",
                    f"{step['augmentation_seconds']:.4g} s",
                    f"{100 * step['augmentation_share']:.1f} %",
                ]
            )
        if "pair" in result[phase]:
            rows.append([*cost_cells("both", result[phase]["pair"]), "", "", "", ""])
    return rows


def cost_cells(name: str, step: dict[str, Any]) -> list[str]:
    """The first cells of a row."""
    return [
        name,
        str(step["images"]),
        f"{step['seconds']:.4g}",
        f"{step['images_per_second']:.4g}",
        f"{step['flops'] / 1e9:.4g}",
        f"{step['gmac_per_image']:.4g}",
        f"{100 * step['share_of_peak']:.1f} %",
    ]


def notes(result: dict[str, Any]) -> list[str]:
    """What the table's figures rest on."""
    name = result["device_name"] or f"{result['device']}, {result['cpu_threads']} threads"
    height_by_width = "x".join(map(str, result["image_shape"][1:]))
    lines = [
        f"{name}, {result['precision']}; preset {result['preset']}, {result['objective']}, images {height_by_width}; "
        f"medians of {result['steps']} after {result['warmup']}"
    ]
    for phase in ("search", "retrain"):
        if phase in result:
            product = result[phase]["matrix_product"]
            lines.append(
                f"{phase}: {result[phase]['classes']} classes; peak {product['flops_per_second'] / 1e9:.4g} GFLOP/s, a "
                f"{product['dtype']} product of {product['size']}x{product['size']} matrices in turns with the steps"
            )
    if "search" in result:
        found = result["search"]
        lines.append(
            f"an architecture and a weight step: {found['pair']['gmac_per_image']:.4g} GMAC an image; a forward pass "
            f"evaluates {found['cell_evaluations']} mixed operations of {found['cell_forms']} built"
        )
    memory = "tensors on the GPU" if result["device"].startswith("cuda") else "the most that the whole process has held"
    lines.append(f"memory: {memory}")
    return lines
