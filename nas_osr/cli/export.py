"""`nas-osr export`: an architecture as JSON, GraphML, DOT, SVG, PDF and PNG; a model as a folder or as ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nas_osr.errors import UserError
from nas_osr.plugins import import_plugin

if TYPE_CHECKING:
    from nas_osr.search_spaces.architectures.architecture import Architecture

MODEL_FORMATS = ("safetensors", "onnx")
SIZED = (3, 32, 32)  # of an image, since an architecture knows of none


def export(
    architecture: str,
    format: str | list[str] = "svg,png,gv,graphml,json",
    out: Path | None = None,
    weights: Path | None = None,
    data_dir: str | None = None,
    device: str = "auto",
    plugin: list[str] | None = None,
    image_type: Literal["uint8", "float32"] = "uint8",
    int8: bool = False,
    images: Path | None = None,
) -> list[Path]:
    """Write an architecture, and the space that it was found in, as pictures and files; or a trained model.

    The picture shows scales as rows and layers as columns, the chosen path and operations bold, the rest faint with the
    weights that the search gave it. The format safetensors writes the model folder of a retraining that an earlier
    version left without one; unless its rule learns nothing, that needs the run's training images. The format onnx
    writes one graph of preprocessing, network, rule and threshold: images in, label and knownness out.

    Args:
        architecture: a run folder, a .json or .graphml file, or "published"; for safetensors and onnx a retraining or a
            model folder.
        format: any of svg, pdf, png, gv, graphml, json, safetensors, onnx, separated by commas.
        out: the folder to write architecture.FORMAT or the model into; made when absent
            (default: the current one; for a model, `model` in the run's own folder).
        weights: a history.jsonl with the alphas and betas to show
            (default: the run folder's own, or the GraphML file's).
        data_dir: folder of the images, where it is not the run's and a rule has to be fitted.
        device: auto, cpu, cuda or cuda:INDEX, for the same.
        plugin: modules with your own classes that the run was made with.
        image_type: of onnx: what the graph takes, uint8 or float32 (in [0, 1]).
        int8: of onnx: also write it with the network in 8 bits, and say what that costs.
        images: for int8: a folder of folders named after classes, of which some pictures calibrate and the others
            measure (default: the run's own training and test images).

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
        for module in plugin or []:
            import_plugin(module)
        found, shown = load_with_weights(architecture, weights)
        sizes = ""
        if {"svg", "pdf", "png", "gv"} & set(drawn):
            from nas_osr.search_spaces.sizes import sizes_of  # torch

            sizes = sizes_of(found)
        written += export_architecture(found, shown, drawn, out or Path("."), sizes)
        say_sizes(found)
    if set(formats) & set(MODEL_FORMATS):
        from nas_osr.retrain.retrain_request import ReopenOptions

        options = ReopenOptions(data_dir=data_dir, device=device, precision="32-true", plugin=plugin or [])
    if "safetensors" in formats:
        from nas_osr.retrain.conversion import export_models

        written += export_models(architecture, out, options)
    if "onnx" in formats:
        from nas_osr.deploy.onnx_export import export_onnx
        from nas_osr.deploy.quantisation import format_int8_cost

        files, costs = export_onnx(architecture, out, options, image_type, int8, images)
        written += files
        print("\n".join(map(format_int8_cost, costs)), end="\n" if costs else "")
    for path in written:
        print(f"wrote {path}")
    return written


def say_sizes(architecture: Architecture) -> None:
    """Print how large an architecture's network and its space are; a line says why not, where a class is missing."""
    from nas_osr.search_spaces.sizes import describe_architecture, describe_latency, describe_space

    print(f"space: {describe_space(architecture.space)}")
    try:
        print(describe_architecture(architecture, SIZED))
        if latency := describe_latency(architecture):
            print(f"latency: {latency}, by the table of its search")
    except UserError as error:
        print(f"network: no sizes, since {error}")
