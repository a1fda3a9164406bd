"""`nas-osr export`: an architecture as JSON, GraphML, DOT, SVG and PNG; a trained network as a model folder."""

from __future__ import annotations

from pathlib import Path

MODEL_FORMATS = ("safetensors",)


def export(
    architecture: str,
    format: str | list[str] = "svg,png,gv,graphml,json",
    out: Path | None = None,
    weights: Path | None = None,
    data_dir: str | None = None,
    device: str = "auto",
    plugin: list[str] | None = None,
) -> list[Path]:
    """Write an architecture, and the space that it was found in, as pictures and files; or a run's model folder.

    The picture shows scales as rows and layers as columns, the chosen path and operations bold, the rest faint with the
    weights that the search gave it. The format safetensors writes the model folder of a retraining that an earlier
    version left without one; unless its rule learns nothing, that needs the run's training images.

    Args:
        architecture: a run folder, a .json or .graphml file, or "published"; for safetensors a retraining.
        format: any of svg, png, gv, graphml, json, safetensors, separated by commas.
        out: the folder to write architecture.FORMAT or the model into; made when absent
            (default: the current one; for a model, `model` in the run's own folder).
        weights: a history.jsonl with the alphas and betas to show
            (default: the run folder's own, or the GraphML file's).
        data_dir: folder of the images, where it is not the run's and a rule has to be fitted.
        device: auto, cpu, cuda or cuda:INDEX, for the same.
        plugin: modules with your own classes that the run was made with.

    Returns:
        The files written.

    Raises:
        UserError: there is no such architecture or format, or a file cannot be read or written.
    """
    from nas_osr.search_spaces.architectures.export import export_architecture, load_with_weights

    items = [format] if isinstance(format, str) else format
    formats = [name.strip() for item in items for name in item.split(",")]
    drawn = [name for name in formats if name not in MODEL_FORMATS]
    written = []
    if drawn:
        written += export_architecture(*load_with_weights(architecture, weights), drawn, out or Path("."))
    if "safetensors" in formats:
        from nas_osr.retrain.conversion import export_models
        from nas_osr.retrain.retrain_request import ReopenOptions

        written += export_models(
            architecture, out, ReopenOptions(data_dir=data_dir, device=device, plugin=plugin or [])
        )
    for path in written:
        print(f"wrote {path}")
    return written
