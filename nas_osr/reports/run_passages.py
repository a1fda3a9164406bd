"""What the chapters of all runs have: configuration, provenance, the network, figures that may be missing."""

from __future__ import annotations

import base64
import io
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from nas_osr.data.protocols import rename_former_names
from nas_osr.errors import UserError
from nas_osr.files.yaml_text import format_yaml
from nas_osr.metrics.open_set import Array
from nas_osr.reports.page import (
    Block,
    DataTable,
    Drawing,
    Facts,
    Listing,
    Passage,
    Remark,
    Strip,
    Thumbnail,
    draw_figure,
    inline_svg,
)
from nas_osr.reports.sentences import list_names
from nas_osr.reports.shown_runs import ShownRun, describe_part
from nas_osr.reports.thumbnails import MISTAKES, find_mistakes, judged_images, sum_of
from nas_osr.retrain.analysis.confusion import label_names
from nas_osr.runs.run_folder import RunFolder
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.architectures.decoding import ArchitectureWeights
from nas_osr.search_spaces.architectures.picture import draw, format_dot
from nas_osr.search_spaces.sizes import sizes_of

PROGRAMS = ("nas-osr", "torch", "python")
PICTURES = 10  # of each kind of mistake


def configuration(run: RunFolder) -> Passage:
    """What a run was asked for, and how it came about, to copy."""
    record = run.read_provenance()
    command = record.get("command", [])
    blocks: list[Block] = []
    if command and command[0] == "nas-osr":
        blocks.append(Listing("Command", shlex.join(map(str, command))))
    elif command:
        blocks.append(Remark(f"Begun from Python, by {command[0]}."))
    blocks.append(Listing("Configuration, config.yaml", format_yaml(run.read_config())))
    blocks.append(Facts(provenance_facts(run, record)))
    blocks.append(Listing("Provenance, provenance.json", format_yaml(record)))
    return Passage("Configuration and provenance", blocks)


def provenance_facts(run: RunFolder, record: Mapping[str, Any]) -> dict[str, str]:
    """When and where a run was made."""
    machine, versions = record.get("machine", {}), record.get("versions", {})
    device = record.get("device_name") or machine.get("processor") or record.get("device")
    facts = {
        "folder": run.path.resolve().name,
        "started": record.get("started"),
        "finished": record.get("finished") or "not yet",
        "device": device,
        "precision": record.get("precision"),
        "versions": ", ".join(f"{name} {versions[name]}" for name in PROGRAMS if name in versions),
        "commit": record.get("git_commit"),
        "training images (fingerprint)": str(record.get("data_fingerprint") or "")[:16],
    }
    return {name: str(text) for name, text in facts.items() if text}


def class_names(protocol: Mapping[str, Any]) -> tuple[str, str]:
    """The known classes and the unknown ones of a protocol as metrics.json has it; another source is named."""
    protocol = rename_former_names(dict(protocol))
    other = "" if protocol["unknown_source"] == protocol["source"] else f"{protocol['unknown_source']}: "
    known = ["+".join(map(str, merged)) for merged in protocol["known"]]
    return list_names(known), other + list_names([str(name) for name in protocol["unknown"]])


def architecture_blocks(architecture: Architecture, weights: ArchitectureWeights | None = None) -> list[Block]:
    """The picture of an architecture, and the same as a table."""
    sizes = sizes_of(architecture)
    svg = inline_svg(draw(format_dot(architecture, weights, sizes), "svg"), "the architecture in its space")
    shown = "chosen path and operations in blue" + (", with the probabilities that the search gave" if weights else "")
    drawing = Drawing("Architecture", f"Layers from left to right, resolutions from top to bottom; {shown}.", svg, True)
    lines = [
        [f"1/{4 << scale}", str(layer), f"1/{4 << at}", operation]
        for scale, branch in architecture.branches.items()
        for layer, (at, operation) in enumerate(zip(branch.path, branch.operations, strict=True))
    ]
    table = DataTable("The same as a table", ["output", "layer", "resolution", "operation"], lines)
    return [drawing, table]


def figure_or_reason(
    title: str, caption: str, plot: Callable[..., Figure], *values: Any, fixed: bool = False, **options: Any
) -> Block:
    """A figure; where its run lacks what it shows, a remark that says what."""
    try:
        return draw_figure(title, caption, plot(*values, **options), fixed=fixed)
    except UserError as error:
        return Remark(f"No figure “{title}”: {error}", quiet=True)


def mistakes(part: RunFolder, data_dir: str | None) -> Passage:
    """The most confident mistakes of one split and seed, as small pictures; a remark where its images are not there."""
    run = ShownRun(describe_part(part), (part,))
    title = "The most confident mistakes"
    try:
        [predictions], [result] = run.predictions(), run.results()
        found = find_mistakes(predictions)
        if not any(map(len, found)):
            return Passage(title, [Remark("No test image is mistaken.")])
        images = judged_images(run, result, data_dir)
    except UserError as error:
        return Passage(title, [Remark(f"No pictures: {error}", quiet=True)])
    names = [*label_names(predictions), "unknown"]
    blocks: list[Block] = [Remark(f"Of {run.name}: the worst first.", quiet=True)]
    for kind, places in zip(MISTAKES, found, strict=True):
        pictures = [
            Thumbnail(
                data_uri(images[predictions.index[place]]),
                str(predictions.true_class[place]),
                names[predictions.predicted_label[place]],
            )
            for place in places[:PICTURES].tolist()
        ]
        if pictures:
            blocks.append(Strip(f"{kind[:1].upper()}{kind[1:]}: {sum_of(predictions, kind)}", pictures))
    return Passage(title, blocks)


def data_uri(image: Array) -> str:
    """An image [C, H, W] uint8 as PNG in a data URI."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(file, format="png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def flat_settings(config: Mapping[str, Any], head: str = "") -> Iterator[tuple[str, str]]:
    """The settings of a configuration by dotted name, as texts; an architecture is none."""
    for name, value in config.items():
        if isinstance(value, Mapping) and name != "architecture":
            yield from flat_settings(value, f"{head}{name}.")
        elif name != "architecture":
            yield f"{head}{name}", "-" if value is None else str(value)


def own_architecture(folder: Path) -> Architecture | None:
    """That of a run; None where it is of a baseline network, or has not found any yet. Raises UserError."""
    file = folder / "architecture.json"
    return Architecture.load(file) if file.is_file() else None


def describe_ways(architecture: Architecture) -> str:
    """The operation and the resolution of each layer, on the way to each output."""
    return "; ".join(
        " ".join(f"{operation}@1/{4 << at}" for at, operation in zip(way.path, way.operations, strict=True))
        for way in architecture.branches.values()
    )
