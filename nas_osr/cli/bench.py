"""`nas-osr bench`: what the steps of a search and of a retraining cost on this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from nas_osr.cli.show import show_json, show_table
from nas_osr.cost import GIB
from nas_osr.errors import UserError
from nas_osr.option_docs import NOT_NEGATIVE, POSITIVE, Choices, Range
from nas_osr.requests import LossOptions, MachineOptions, PresetOptions, ProtocolOptions, SpaceOptions
from nas_osr.retrain.retrain_request import TrainingOptions
from nas_osr.strategies import STRATEGIES

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from nas_osr.data.protocols import Protocol

# The columns of the table: of every row, and of single steps only.
COSTS: dict[str, Callable[[dict[str, Any]], str]] = {
    "images": lambda step: str(step["images"]),
    "seconds": lambda step: f"{step['seconds']:.4g}",
    "images/s": lambda step: f"{step['images_per_second']:.4g}",
    "launches": lambda step: str(step["launches"]),
    "GFLOP": lambda step: f"{step['flops'] / 1e9:.4g}",
    "GMAC/image": lambda step: f"{step['gmac_per_image']:.4g}",
    "of peak": lambda step: f"{100 * step['share_of_peak']:.1f} %",
}
DETAILS: dict[str, Callable[[dict[str, Any]], str]] = {
    "memory GiB": lambda step: f"{step['peak_memory_bytes'] / GIB:.2f}",
    "overhead": lambda step: f"{100 * step['overhead']:+.1f} %",
    "augmentation": lambda step: f"{step['augmentation_seconds']:.4g} s",
    "of step": lambda step: f"{100 * step['augmentation_share']:.1f} %",
}


@dataclass
class BenchRequest(MachineOptions, PresetOptions, TrainingOptions, SpaceOptions, LossOptions, ProtocolOptions):
    """Measure what a training step costs: seconds, images/s, memory, FLOPs and the share of this machine's peak.

    Random images of the protocol's shape are used; no data set is needed. Without an architecture or a network, one is
    drawn from the search space to be retrained. docs/results/how-fast.md explains the columns.
    """

    split: Annotated[int, NOT_NEGATIVE] = 0
    "the class split."
    classes: Annotated[int | None, Range(2)] = None
    "number of known classes instead of the protocol's."
    image_size: Annotated[int | None, Range(16)] = None
    "side of the images in pixels instead of the protocol's; a multiple of 16."
    strategy: Annotated[str, Choices(STRATEGIES, plugins=True)] = "pas"
    "whose steps those of a search are."
    strategy_config: dict[str, Any] = field(default_factory=dict)
    "options of the strategy."
    phase: Literal["both", "search", "retrain"] = "both"
    "which steps."
    retrain_channels: Annotated[int | None, NOT_NEGATIVE] = None
    "channels C of a retrained architecture; 0 is the architecture's own width."
    steps: Annotated[int, POSITIVE] = 5
    "measured steps of each kind; medians are shown."
    warmup: Annotated[int, NOT_NEGATIVE] = 2
    "steps of each kind before them that do not count."
    json: bool = False
    "print the result as one JSON object."


def bench(request: BenchRequest, command: list[str]) -> None:
    """Measure as asked and print a table: a row for each kind of step."""
    result = run_bench(request)
    if request.json:
        show_json(result)
    else:
        show_table(step_rows(result))
        print("\n".join(bench_notes(result)))


def run_bench(request: BenchRequest) -> dict[str, Any]:
    """Measure as asked; torch's random state and its CPU threads are left as they were.

    Returns:
        steps and warmup; device, device_name, precision and cpu_threads; protocol, image_shape, objective, preset;
        search and retrain, as far as asked for: what `nas_osr.strategies.bilevel.search_cost.benchmark_search` and
        `nas_osr.cost.whole_run.Cost.measure` return.

    Raises:
        UserError: anything in the request is wrong, or it does not fit into the GPU's memory.
    """
    import torch

    from nas_osr.cost.steps import leave_no_trace
    from nas_osr.plans import decide_precision, import_plugins, plan_machine
    from nas_osr.search_spaces.presets import preset_objective
    from nas_osr.training.determinism import deterministic_algorithms
    from nas_osr.training.fabric import describe_fabric

    import_plugins(request.plugin)
    if request.network is not None and request.architecture is not None:
        raise UserError("architecture and network are both given: leave one of them out")
    request = replace(request, **preset_objective(request.preset, request.objective, request.objective_config))
    request = decide_precision(request, request.preset)
    protocol = bench_protocol(request)
    with leave_no_trace(), deterministic_algorithms(request.deterministic):
        fabric = plan_machine(request).open(ranks=False)
        try:
            measured = measure_phases(request, protocol, fabric)
        except torch.cuda.OutOfMemoryError as error:
            raise UserError(f"{fabric.device} is out of memory: choose a smaller batch_size or preset") from error
        about = describe_fabric(fabric)
    return {
        "protocol": protocol.name,
        "image_shape": list(protocol.image_shape),
        **{name: getattr(request, name) for name in ("objective", "preset", "steps", "warmup")},
        **about,
        **measured,
    }


def bench_protocol(request: BenchRequest) -> Protocol:
    """The protocol that is asked for, with the number of classes and the image size that are. Raises UserError."""
    protocol = replace(request, image_size=None).published_protocol(request.split)
    if request.classes is not None:
        known = tuple((str(label),) for label in range(request.classes))
        protocol = replace(protocol, known=known, pseudo_unknown=None)
    if request.image_size is not None:
        protocol = replace(protocol, image_shape=(protocol.image_shape[0], request.image_size, request.image_size))
    return protocol


def measure_phases(request: BenchRequest, protocol: Protocol, fabric: Fabric) -> dict[str, Any]:
    """The phases that are asked for, one after the other, so that one's memory is free before the next."""
    from nas_osr.plans import same_fields
    from nas_osr.retrain.retrain_cost import training_cost
    from nas_osr.retrain.retrain_plan import plan_measured
    from nas_osr.retrain.retrain_request import RetrainRequest
    from nas_osr.search_spaces.architectures.references import load_architecture
    from nas_osr.strategies.bilevel.search_cost import benchmark_search
    from nas_osr.strategies.search_plan import plan_space
    from nas_osr.strategies.search_request import SearchRequest

    search_config = SearchRequest(**same_fields(SearchRequest, request))
    given = same_fields(RetrainRequest, request)
    if request.network is None:
        if not isinstance(request.architecture, dict):
            architecture = load_architecture(request.architecture or "random:0", plan_space(search_config))
            given |= {"architecture": architecture.to_dict(), "space": None}
        # what the search space was given by hand is also the width that is retrained
        given["channels"] = request.channels if request.retrain_channels is None else request.retrain_channels
    elif request.retrain_channels is not None:
        raise UserError(f"retrain_channels is the width of an architecture: network {request.network} has its own")
    else:
        given |= {"architecture": None, "channels": None, "space": None}
    retraining = plan_measured(RetrainRequest(**given), protocol)  # before a search is measured, which takes long
    measured: dict[str, Any] = {}
    if request.phase != "retrain":
        measured["search"] = benchmark_search(search_config, protocol, fabric, request.steps, request.warmup)
    if request.phase != "search":
        cost = training_cost(retraining, fabric, retraining.machine.graphs)
        measured["retrain"] = cost.measure(fabric, request.steps, request.warmup)
    return measured


def step_rows(result: dict[str, Any]) -> list[list[str]]:
    """A row for each kind of step."""
    rows = [["step", *COSTS, *DETAILS]]
    for phase in ("search", "retrain"):
        for name, step in result.get(phase, {"steps": {}})["steps"].items():
            rows.append([name, *(show(step) for show in (*COSTS.values(), *DETAILS.values()))])
        if "pair" in result.get(phase, {}):
            rows.append(["both", *(show(result[phase]["pair"]) for show in COSTS.values()), *("" for _ in DETAILS)])
    return rows


def bench_notes(result: dict[str, Any]) -> list[str]:
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
    if "pair" in result.get("search", {}):
        found = result["search"]
        lines.append(
            f"an architecture and a weight step: {found['pair']['gmac_per_image']:.4g} GMAC an image; a forward pass "
            f"evaluates {found['cell_evaluations']} mixed operations of {found['cell_forms']} built"
        )
    memory = "tensors on the GPU" if result["device"].startswith("cuda") else "the most that the whole process has held"
    lines.append(f"memory: {memory}")
    return lines
