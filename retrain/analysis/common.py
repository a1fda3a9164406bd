"""What the analyses share: finding the runs, features of a frozen network, samples, optional packages, plots."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas_osr.data.dataset import LabelledImages
from nas_osr.errors import UserError
from nas_osr.evaluation.judging import collect_outputs
from nas_osr.files.storage import replace_file
from nas_osr.objectives.parts.pooling import pool
from nas_osr.outputs import Outputs
from nas_osr.plugins import import_plugin
from nas_osr.retrain.analysis.config import AnalysisConfig, NetworkConfig
from nas_osr.retrain.reopen import Reopened, open_parts, reopen
from nas_osr.runs.folder import RunFolder
from nas_osr.seeds import make_generator

PLOT_FORMATS = ("png", "svg", "pdf")
Curve = tuple[Sequence[float], Sequence[float], Sequence[float] | None]  # x, y and the spread of y


def open_runs(folder: str) -> dict[str, RunFolder]:
    """The finished retrainings in a folder, by folder name. Raises UserError when there is something else."""
    runs = open_parts(Path(folder))
    for run in runs:
        if not (run.path / "predictions.csv").exists():
            raise UserError(f"{run.path}: no predictions.csv: analyse needs a finished retraining")
    return {run.path.resolve().name: run for run in runs}


def reopen_run(run: RunFolder, config: NetworkConfig) -> Reopened:
    """The network and data of a run as the options ask. Raises UserError."""
    for module in config.plugin:
        import_plugin(module)
    return reopen(
        run, data_dir=config.data_dir, device=config.device, precision=config.precision, threads=config.threads
    )


def write_figures(run: RunFolder, kind: str, config: AnalysisConfig, figures: Mapping[str, Any]) -> None:
    """Leave analysis-KIND.json in the run folder: the figures, and under `options` what they were computed with."""
    run.write_json(f"analysis-{kind}.json", {"options": config.recorded(), **figures})


def require(module: str) -> Any:
    """A module of the extra `analysis`. Raises UserError when it is not installed or cannot be imported."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"this analysis needs {module} ({error}): pip install 'nas-osr[analysis]'") from error


def pooled_features(opened: Reopened, images: LabelledImages) -> Tensor:
    """The encoder's pooled features, those before any head: [n, D] float32 on the CPU, in order.

    Raises:
        UserError: a feature is not a number, or there is no image.
    """

    def infer(batch: Tensor) -> Outputs:
        with opened.fabric.autocast():
            return Outputs(embedding=pool(opened.learner.encoder(batch)))

    embedding = collect_outputs(infer, images, device=opened.fabric.device).embedding
    assert embedding is not None
    return check_finite(opened, embedding)


def check_finite(opened: Reopened, features: Tensor) -> Tensor:
    """The features as they are. Raises UserError when one is not a finite number."""
    if not bool(features.isfinite().all()):
        raise UserError(f"{opened.run.path}: features are not numbers: the network has diverged")
    return features


def known_test_images(opened: Reopened) -> LabelledImages:
    """The test images of known classes."""
    test = opened.data.test()
    return test.select(test.labels < opened.protocol.num_known)


def draw_sample(size: int, limit: int | None, seed: int, *names: object) -> Tensor:
    """Ascending positions of `limit` distinct ones of `size` images, drawn from the stream `names`; or all of them.

    Raises:
        UserError: the limit is not positive.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit must be at least 1, got {limit}")
    if limit is None or limit >= size:
        return torch.arange(size)
    return torch.randperm(size, generator=make_generator(seed, "analysis", *names))[:limit].sort().values


def check_picture(path: str | None, formats: tuple[str, ...] = PLOT_FORMATS) -> None:
    """UserError unless a picture of this name can be written, or none is asked for: said before the computation."""
    if path is None:
        return
    if Path(path).suffix[1:] not in formats:
        raise UserError(f"{path}: the name of a picture must end in {' or '.join(f'.{name}' for name in formats)}")
    if not Path(path).parent.is_dir():
        raise UserError(f"{path}: its folder does not exist")


def plot_curves(
    path: str, curves: Mapping[str, Curve], x_label: str, y_label: str, *, logarithmic: bool = False
) -> None:
    """Draw curves with their spread into a file whose suffix is one of `PLOT_FORMATS`. Raises UserError."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for name, (x, y, spread) in curves.items():
        (line,) = axes.plot(x, y, marker="o", markersize=3, label=name)
        if spread is not None:
            low = [value - width for value, width in zip(y, spread, strict=True)]
            high = [value + width for value, width in zip(y, spread, strict=True)]
            axes.fill_between(x, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    if logarithmic:
        axes.set_xscale("log")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    axes.legend()
    with replace_file(Path(path)) as file:
        figure.savefig(file, format=Path(path).suffix[1:], dpi=150)
