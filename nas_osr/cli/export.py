"""`nas-osr export`: an architecture as JSON, GraphML, DOT, SVG and PNG."""

from __future__ import annotations

from pathlib import Path


def export(
    architecture: str,
    format: str | list[str] = "svg,png,gv,graphml,json",
    out: Path = Path("."),
    weights: Path | None = None,
) -> list[Path]:
    """Write an architecture, and the space that it was found in, as pictures and files.

    The picture shows scales as rows and layers as columns, the chosen path and operations bold, the rest faint with the
    weights that the search gave it.

    Args:
        architecture: a run folder, a .json or .graphml file, or "published".
        format: any of svg, png, gv, graphml, json, separated by commas.
        out: the folder to write architecture.FORMAT into; made when absent.
        weights: a history.jsonl with the alphas and betas to show
            (default: the run folder's own, or the GraphML file's).

    Returns:
        The files written.

    Raises:
        UserError: there is no such architecture or format, or a file cannot be read or written.
    """
    from nas_osr.search_spaces.architectures.export import export_architecture, load_with_weights

    items = [format] if isinstance(format, str) else format
    formats = [name.strip() for item in items for name in item.split(",")]
    written = export_architecture(*load_with_weights(architecture, weights), formats, out)
    for path in written:
        print(f"wrote {path}")
    return written
