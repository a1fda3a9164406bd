"""The network of an ONNX graph in 8 bits, and what that costs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from nas_osr.data.dataset import LabelledImages
from nas_osr.data.sources.listing import list_class_folders
from nas_osr.deploy.onnx_graph import (
    INPUT,
    ONNX_FILE,
    ImageType,
    import_onnx,
    open_session,
    quiet,
    run_graph,
    write_graph,
)
from nas_osr.deploy.pictures import PictureFiles, try_pictures
from nas_osr.errors import UserError
from nas_osr.evaluation.judging import INFERENCE_BATCH
from nas_osr.metrics.open_set import auroc, closed_set_accuracy
from nas_osr.retrain.model import Model
from nas_osr.retrain.reopen import reopen
from nas_osr.retrain.retrain_request import ReopenOptions
from nas_osr.runs.run_folder import RunFolder
from nas_osr.seeds import make_generator

if TYPE_CHECKING:
    import onnx

INT8_FILE = "model.int8.onnx"
CALIBRATION_IMAGES = 256
CALIBRATION_BATCH = 32
QUANTISED = ["Conv", "ConvTranspose", "Gemm", "MatMul"]

#: What is said of a graph, by name; None where it cannot be.
Figures = dict[str, float | None]


@dataclass(frozen=True)
class Int8Cost:
    """What 8 bits cost.

    Attributes:
        before, after: figures of the graph in 32 and in 8 bits.
        agreement: share of images with the same label.
    """

    before: Figures
    after: Figures
    agreement: float


def load_int8_images(
    model: Model, run: RunFolder | None, images: Path | None, options: ReopenOptions
) -> tuple[Tensor, LabelledImages]:
    """Images to calibrate on, uint8 [n, C, H, W], and others to measure on, labelled 0..N, N is unknown.

    Args:
        run: the model's: without `images`, its known training images calibrate, its test images measure.
        images: a folder of folders named after classes. Every other picture of a known class calibrates; those left,
            and those of folders of other names, measure.
        options: where the run's images are.

    Raises:
        UserError: there are neither, an image cannot be read, or none is of a known class.
    """
    if images is not None:
        return load_pictures(model, images)
    if run is None:
        raise UserError("int8 is calibrated on images: name a folder of them with --images, or export the run")
    opened = reopen(run, options)
    return pick(opened.data.train.images), opened.data.test()


def load_pictures(model: Model, folder: Path) -> tuple[Tensor, LabelledImages]:
    """The same of a folder of pictures."""
    calibration, measured, labels = [], [], []
    owners = {name: label for label, group in enumerate(model.inputs.classes) for name in (group, *group.split("+"))}
    for name in list_class_folders(folder):
        label = owners.get(name, model.inputs.num_known)
        for number, found in enumerate(try_pictures(list(PictureFiles([folder / name])), model.inputs)):
            if isinstance(found, UserError):
                raise found
            if label < model.inputs.num_known and number % 2 == 0:
                calibration.append(found)
            else:
                measured.append(found)
                labels.append(label)
    if not calibration or not measured:
        raise UserError(f"{folder}: expected folders named after known classes, with two pictures or more in each")
    values = torch.tensor(labels)
    return pick(torch.stack(calibration)), LabelledImages(torch.stack(measured), values, values)


def pick(images: Tensor) -> Tensor:
    """`CALIBRATION_IMAGES` of some images, drawn, or all."""
    order = torch.randperm(len(images), generator=make_generator(0, "calibration"))
    return images[order[:CALIBRATION_IMAGES]]


def quantise(graph: onnx.ModelProto, images: Tensor, image_type: ImageType) -> onnx.ModelProto:
    """A graph whose network computes convolutions and matrix products in 8 bits; the rule stays in float64.

    Args:
        graph: in 32 bits.
        images: uint8 [n, C, H, W], from which the ranges of all values are taken.

    Raises:
        UserError: ONNX Runtime cannot do it.
    """
    onnx, _ = import_onnx()
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches: Iterator[Tensor] = iter(images.split(CALIBRATION_BATCH))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: as_input(batch, image_type)}

    with TemporaryDirectory() as folder, quiet():
        before, path = write_graph(graph, Path(folder, ONNX_FILE)), Path(folder, INT8_FILE)
        try:
            quantize_static(
                before, path, Reader(), quant_format=QuantFormat.QDQ, op_types_to_quantize=QUANTISED, per_channel=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, nodes_to_exclude=double_nodes(graph),
                extra_options={"CalibTensorRangeSymmetric": False},
            )  # fmt: skip
        except Exception as error:  # whatever it meets in a graph
            raise UserError(f"ONNX Runtime cannot bring this network to 8 bits: {error}") from error
        return onnx.load(path)  # type: ignore[no-any-return]


def double_nodes(graph: onnx.ModelProto) -> list[str]:
    """The names of the nodes that compute in float64."""
    onnx, _ = import_onnx()
    inferred = onnx.shape_inference.infer_shapes(graph).graph
    values = (*inferred.value_info, *inferred.output)
    double = {value.name for value in values if value.type.tensor_type.elem_type == onnx.TensorProto.DOUBLE}
    return [node.name for node in inferred.node if double & set(node.output)]


def as_input(images: Tensor, image_type: ImageType) -> np.ndarray:
    """Images uint8 as a graph takes them."""
    return (images if image_type == "uint8" else images.float() / 255).numpy()


def measure_graphs(
    before: onnx.ModelProto, after: onnx.ModelProto, test: LabelledImages, image_type: ImageType
) -> Int8Cost:
    """What two graphs say of labelled images, and how fast."""
    (first, said), (second, says) = (measure_graph(graph, test, image_type) for graph in (before, after))
    return Int8Cost(first, second, float((said == says).mean()))


def measure_graph(graph: onnx.ModelProto, test: LabelledImages, image_type: ImageType) -> tuple[Figures, np.ndarray]:
    """The figures of one graph, and its labels [n]."""
    content = graph.SerializeToString()
    session = open_session(content)
    batches = [as_input(batch, image_type) for batch in test.images.split(INFERENCE_BATCH)]
    run_graph(session, batches[0])  # the first is slower
    started = time.perf_counter()
    answers = [run_graph(session, batch) for batch in batches]
    seconds = time.perf_counter() - started
    joined: dict[str, Any] = {name: np.concatenate([part[name] for part in answers]) for name in answers[0]}
    unknown = int(next(item.value for item in graph.metadata_props if item.key == "unknown_label"))
    truth = test.labels.numpy()
    known = truth < unknown
    figures: Figures = {
        "accuracy": closed_set_accuracy(joined["nearest"], truth, unknown),
        "AUROC": auroc(joined["knownness"], ~known),
        "known images accepted": float((joined["label"][known] < unknown).mean()) if known.any() else None,
        "megabytes": len(content) / 1e6,
        "images a second": len(truth) / seconds,
    }
    return figures, joined["label"]


def format_int8_cost(cost: Int8Cost) -> str:
    """A table in Markdown."""
    lines = ["| | 32 bits | 8 bits |", "|---|---|---|"]
    for name, before in cost.before.items():
        shown = ["-" if value is None else f"{value:.4g}" for value in (before, cost.after[name])]
        lines.append(f"| {name} | {shown[0]} | {shown[1]} |")
    return "\n".join([*lines, f"| same label | | {cost.agreement:.2%} |"])
