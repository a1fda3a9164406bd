"""Files of an architecture: JSON, GraphML, DOT, SVG, PDF and PNG, with the weights of its search if there are any."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nas_osr.errors import UserError
from nas_osr.files.paths import user_path
from nas_osr.files.storage import file_errors, read_records, replace_file
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.architectures.decoding import ArchitectureWeights, weights_from_record
from nas_osr.search_spaces.architectures.graph import format_graphml, read_graphml, to_graph, weights_from_graph
from nas_osr.search_spaces.architectures.picture import draw, format_dot
from nas_osr.search_spaces.architectures.references import load_architecture, published_names

FORMATS = ("svg", "pdf", "png", "gv", "graphml", "json")


def export_architecture(
    architecture: Architecture,
    weights: ArchitectureWeights | None,
    formats: Sequence[str],
    out: str | Path,
    sizes: str = "",
) -> list[Path]:
    """Write `architecture.FORMAT` into the folder `out` for each of the formats, and return the paths.

    Everything is made before the first file is written. `sizes` is a line for the picture, such as
    `nas_osr.search_spaces.sizes.sizes_of` gives it.

    Raises:
        UserError: unknown format, no program to draw with, or a folder that cannot be written.
    """
    for name in formats:
        if name not in FORMATS:
            raise UserError(f"format {name[:40]!a}: choose from {', '.join(FORMATS)}")
    contents = {name: render(architecture, weights, name, sizes) for name in formats}
    folder = user_path(out)
    with file_errors(folder, "make this folder"):
        folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        with replace_file(folder / f"architecture.{name}") as file:
            file.write(content)
    return [folder / f"architecture.{name}" for name in contents]


def render(architecture: Architecture, weights: ArchitectureWeights | None, format: str, sizes: str = "") -> bytes:
    """The content of one file; the same bytes for the same input (and, for svg and png, the same program)."""
    if format == "json":
        return architecture.to_json().encode()
    if format == "graphml":
        return format_graphml(to_graph(architecture, weights)).encode()
    dot = format_dot(architecture, weights, sizes)
    return dot.encode() if format == "gv" else draw(dot, format)


def load_with_weights(
    reference: str | Path, history: Path | None = None
) -> tuple[Architecture, ArchitectureWeights | None]:
    """An architecture as `load_architecture` finds it, and the weights of its search.

    Args:
        reference: a run folder, a .json or .graphml file, or a published name.
        history: the history.jsonl to take the weights from; by default the run folder's own, or what the GraphML holds.

    Raises:
        UserError: something is missing or broken.
    """
    architecture = load_architecture(reference)
    path = user_path(reference)
    if history is None and str(reference) in published_names():
        return architecture, None
    if history is None and (path / "history.jsonl").is_file():
        history = path / "history.jsonl"
    if history is not None:
        return architecture, read_weights(history, architecture)
    if path.suffix == ".graphml" and path.is_file():
        return architecture, weights_from_graph(read_graphml(path), architecture, str(path))
    return architecture, None


def read_weights(history: Path, architecture: Architecture) -> ArchitectureWeights | None:
    """The weights in the record of `history.jsonl` that `found["epoch"]` names; None when either has none.

    Raises:
        UserError: the file has no such record, or the record's weights do not fit the architecture.
    """
    if not history.is_file():
        raise UserError(f"{history}: no such file")
    epoch = architecture.found.get("epoch")
    if epoch is None:
        return None
    for record in read_records(history):
        if record.get("epoch") == epoch:
            return weights_from_record(record, architecture.space, f"{history}, epoch {epoch}")
    raise UserError(f"{history}: no record of epoch {epoch}, in which the architecture was found")
