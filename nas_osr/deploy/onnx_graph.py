"""A trained model as one ONNX graph: images in, label and knownness out."""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from nas_osr.deploy.decompositions import DECOMPOSITIONS, scalar_translation
from nas_osr.errors import UserError
from nas_osr.files.storage import replace_file
from nas_osr.retrain.model import Model
from nas_osr.runs.provenance import versions

if TYPE_CHECKING:
    import onnx

ONNX_FILE = "model.onnx"
OPSET = 18
INPUT, OUTPUTS = "images", ("label", "nearest", "knownness", "margin")
CHECKED_BATCHES = (1, 3)  # images that a new graph is compared on
KNOWNNESS_ERROR = 1e-4  # of the scale of knownness
MAX_BYTES = 2**31 - 1  # of a file of protocol buffers

ImageType = Literal["uint8", "float32"]


class OpenSetGraph(nn.Module):
    """Images [n, C, H, W], uint8 or float32 in [0, 1] -> label, nearest, knownness, margin, each [n].

    They are what `nas_osr.deploy.predictor.Answers` has: label in 0..N, N is unknown.
    """

    white = 255.0

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.learner, self.rule = copy.deepcopy(model.learner).cpu().eval(), model.rule
        limits = model.class_thresholds or [model.rule.threshold] * model.inputs.num_known
        self.thresholds: Tensor
        self.register_buffer("thresholds", torch.tensor(limits, dtype=torch.float64))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the model says of the images. Floats are rounded to 8 bits, as `nas_osr.load` does."""
        pixels = images.float() if images.dtype == torch.uint8 else (images * 255).round().clamp(0, 255)
        scores = self.rule.scores(self.learner.infer(pixels / self.white))
        nearest, knownness = scores.labels, scores.knownness.double()
        margin = knownness - self.thresholds[nearest]
        return torch.where(margin >= 0, nearest, len(self.thresholds)), nearest, knownness, margin


def make_graph(model: Model, image_type: ImageType = "uint8") -> onnx.ModelProto:
    """The ONNX graph of a model, for batches of any size, with names, threshold and versions in its metadata.

    It has been looked at by onnx.checker, and compared with torch in ONNX Runtime.

    Raises:
        UserError: a package is missing, something in the network or the rule cannot be written in ONNX, or the graph
            does not say what the model says.
    """
    onnx, _ = import_onnx()
    if model.rule.no_graph:
        raise UserError(
            f"rule {model.rule.name} cannot be exported to ONNX: {model.rule.no_graph}; choose another --rule"
        )
    module = OpenSetGraph(model).eval()
    example = example_images(model, 2, image_type)
    what = f"rule {model.rule.name} on {model.network if isinstance(model.network, str) else 'this architecture'}"
    try:
        with torch.no_grad(), quiet():
            shapes = ({0: torch.export.Dim.DYNAMIC},)
            program = torch.export.export(module, (example,), dynamic_shapes=shapes, strict=False)
            program = program.run_decompositions({**torch.export.default_decompositions(), **DECOMPOSITIONS})
            exported = torch.onnx.export(
                program,
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                opset_version=OPSET,
                dynamo=True,
                custom_translation_table=scalar_translation(),
                verbose=False,
            )
        assert exported is not None
        graph = exported.model_proto
    except Exception as error:  # whatever the exporter meets in a network or rule of any origin
        reason = " ".join(str(error.__cause__ or error).split())[:300]
        raise UserError(f"{what} cannot be exported to ONNX: {reason}") from error
    for dimensions in (value.type.tensor_type.shape.dim for value in (*graph.graph.input, *graph.graph.output)):
        dimensions[0].dim_param = "n"
    onnx.helper.set_model_props(graph, describe_graph(model, image_type))
    check_graph(graph, module, [example_images(model, count, image_type) for count in CHECKED_BATCHES])
    return graph


def describe_graph(model: Model, image_type: ImageType) -> dict[str, str]:
    """The metadata of a graph, each value as JSON but for texts."""
    inputs, rule = model.inputs, model.rule
    return {
        "classes": json.dumps(list(inputs.classes)),
        "unknown_label": str(inputs.num_known),
        "rule": rule.name,
        "thresholds": json.dumps(list(model.class_thresholds or [rule.threshold] * inputs.num_known)),
        "image_shape": json.dumps(list(inputs.image_shape)),
        "image_type": image_type,
        "mean": json.dumps(list(inputs.mean)),
        "std": json.dumps(list(inputs.std)),
        "versions": json.dumps(versions()),
    }


def example_images(model: Model, count: int, image_type: ImageType) -> Tensor:
    """Random images [count, C, H, W], the same each time."""
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(0, 256, (count, *model.inputs.image_shape), dtype=torch.uint8, generator=generator)
    return images if image_type == "uint8" else images.float() / 255


def check_graph(graph: onnx.ModelProto, module: OpenSetGraph, batches: list[Tensor]) -> None:
    """UserError unless ONNX Runtime says of the images what torch says, and the file is in order."""
    onnx, _ = import_onnx()
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(graph, strict_mode=True), full_check=True)
    session = open_session(graph.SerializeToString())
    for images in batches:
        difference = compare_answers(module, images, run_graph(session, images.numpy()))
        if difference:
            raise UserError(f"the ONNX graph does not say what the model says, so it is not written: {difference}")


def compare_answers(module: OpenSetGraph, images: Tensor, found: dict[str, np.ndarray]) -> str:
    """How answers differ from a module's; "" where the labels are the same, and knownness but for `KNOWNNESS_ERROR`.

    The error is a share of the largest knownness; where the rule turns the last bits of float32 into more than that, it
    is four times what they bring about. An image whose margin is within it may be known here and unknown there.
    """
    expected, shaken = run_module(module, images), copy.copy(module)
    shaken.white = module.white * (1 + torch.finfo(torch.float32).eps)
    known = expected["knownness"]
    last_bits = float(np.abs(known - run_module(shaken, images)["knownness"]).max())
    allowed = max(KNOWNNESS_ERROR * float(np.abs(known).max()), 4 * last_bits)
    error = float(np.abs(known - found["knownness"]).max())
    close = np.abs(expected["margin"]) <= allowed
    changed = int(((expected["label"] != found["label"]) & ~close).sum())
    changed += int((expected["nearest"] != found["nearest"]).sum())
    if changed or not error <= allowed:
        return f"{changed} of {len(close)} labels differ, knownness by up to {error:.2g} (allowed {allowed:.2g})"
    return ""


def run_module(module: OpenSetGraph, images: Tensor) -> dict[str, np.ndarray]:
    """What torch says of images, by name."""
    with torch.inference_mode():
        return dict(zip(OUTPUTS, (value.numpy() for value in module(images)), strict=True))


def open_session(content: bytes | str) -> Any:
    """An inference session of ONNX Runtime, on the CPU, of a graph or its path."""
    _, runtime = import_onnx()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run_graph(session: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs by name."""
    return dict(zip(OUTPUTS, session.run(list(OUTPUTS), {INPUT: images}), strict=True))


def write_graph(graph: onnx.ModelProto, path: Path) -> Path:
    """Write a graph as one file. Raises UserError: it is too large for one, or the disk refuses."""
    if graph.ByteSize() > MAX_BYTES:
        raise UserError(f"{path}: {graph.ByteSize()} bytes are too many for one file of ONNX")
    with replace_file(path) as file:
        file.write(graph.SerializeToString())
    return path


def import_onnx() -> tuple[Any, Any]:
    """The modules onnx and onnxruntime. Raises UserError when one of the extra `onnx` is missing."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  (what torch exports with)
    except ModuleNotFoundError as error:
        raise UserError(f"the format onnx needs {error.name}: pip install nas-osr[onnx]") from error
    return onnx, onnxruntime


@contextmanager
def quiet() -> Iterator[None]:
    """Without what torch's exporter says of its own progress and of its own workings."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
