"""`nas-osr export --format onnx`: a model as model.onnx, with 8-bit weights as well if asked for, and its card."""

from __future__ import annotations

from pathlib import Path

from nas_osr.deploy.onnx_graph import INPUT, ONNX_FILE, ImageType, import_onnx, make_graph, write_graph
from nas_osr.deploy.quantisation import (
    INT8_FILE,
    Int8Cost,
    format_int8_cost,
    load_int8_images,
    measure_graphs,
    quantise,
)
from nas_osr.files.storage import file_errors
from nas_osr.retrain.conversion import open_models
from nas_osr.retrain.model import Model, describe_model
from nas_osr.retrain.model_card import check_card, format_card, write_card
from nas_osr.retrain.retrain_request import ReopenOptions

SECTION = """## ONNX

`{file}` holds preprocessing, network, rule and threshold. It takes `{input}`: [n, {channels}, {height}, {width}],
{values}, for any n, and returns, each [n], `label` (the class's number from 0 in the order of the table above,
{unknown} is unknown), `nearest` (the most likely known class), `knownness` and `margin` (at least 0 where it is known).
Names and thresholds are in its metadata.

```python
import onnxruntime

session = onnxruntime.InferenceSession("{file}")
label, nearest, knownness, margin = session.run(None, {{"{input}": images}})
```
"""
INT8_SECTION = """
`{file}` has the network's convolutions and matrix products in 8 bits, calibrated on {images} images. What that costs,
on {tested} others:

{table}
"""


def export_onnx(
    path: str | Path,
    out: Path | None,
    options: ReopenOptions,
    image_type: ImageType = "uint8",
    int8: bool = False,
    images: Path | None = None,
) -> tuple[list[Path], list[Int8Cost]]:
    """Write model.onnx, with `int8` model.int8.onnx too, and the card, of a model or of each part of a retraining.

    Args:
        path, out, options: see `open_models`.
        image_type: what the graph takes: uint8, or float32 in [0, 1].
        int8: also with the network in 8 bits.
        images: pictures for that, see `load_int8_images`.

    Returns:
        The files written, and what 8 bits cost each model.

    Raises:
        UserError: as `open_models`, `make_graph` and `load_int8_images`.
    """
    import_onnx()
    written, costs = [], []
    for folder, (model, run) in open_models(path, out, options).items():
        check_card(folder)
        pictures = load_int8_images(model, run, images, options) if int8 else None
        graph, section = make_graph(model, image_type), describe_use(model, image_type)
        with file_errors(folder, "make this folder"):
            folder.mkdir(parents=True, exist_ok=True)
        written.append(write_graph(graph, folder / ONNX_FILE))
        if pictures is not None:
            calibration, test = pictures
            smaller = quantise(graph, calibration, image_type)
            cost = measure_graphs(graph, smaller, test, image_type)
            written.append(write_graph(smaller, folder / INT8_FILE))
            table = format_int8_cost(cost)
            section += INT8_SECTION.format(
                file=INT8_FILE, images=len(calibration), tested=len(test.labels), table=table
            )
            costs.append(cost)
        written.append(write_card(folder, format_card(describe_model(model), section)))
    return written, costs


def describe_use(model: Model, image_type: ImageType) -> str:
    """How a graph is used, as a section of the card."""
    channels, height, width = model.inputs.image_shape
    values = "uint8" if image_type == "uint8" else "float32 in [0, 1]"
    return SECTION.format(
        file=ONNX_FILE, input=INPUT, channels=channels, height=height, width=width, values=values,
        unknown=model.inputs.num_known,
    )  # fmt: skip
