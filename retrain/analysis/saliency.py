"""The activated area of the saliency, S_M(t): how much of the images a network's own loss looks at (GradMix)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nas_osr.configuration import check_choice, check_positive
from nas_osr.data.batches import iterate_batches, to_float
from nas_osr.data.outliers import load_outliers
from nas_osr.errors import UserError
from nas_osr.files.storage import replace_file
from nas_osr.objectives.parts.saliency import WEIGHTS, activated_area, saliency_maps
from nas_osr.outputs import Features
from nas_osr.retrain.analysis.common import (
    Curve,
    check_picture,
    draw_sample,
    known_test_images,
    open_runs,
    plot_curves,
    reopen_run,
    write_figures,
)
from nas_osr.retrain.analysis.config import SaliencyConfig
from nas_osr.retrain.reopen import Reopened
from nas_osr.seeds import derive_seed, make_generator

SHOWN = 16  # images in a picture grid, in rows of 4


class Call(NamedTuple):
    """One call of the encoder: what it was given, [B, C, H, W], and what it returned."""

    images: Tensor
    features: Features


def run_saliency(config: SaliencyConfig) -> dict[str, dict[str, Any]]:
    """`measure` of each run by its folder's name; written into the run as analysis-saliency.json too.

    Raises:
        UserError: no finished retraining, missing images, or a strange option.
    """
    check_choice(config, "part", ("validation", "test"))
    check_choice(config, "weights", WEIGHTS)
    check_positive(config, "lowest", "points", "batch_size")
    if not config.lowest < config.highest < math.inf or not config.scales:
        raise UserError("saliency: lowest must be below highest, and scales must name at least one")
    check_picture(config.plot)
    check_picture(config.pictures, ("png",))
    results = {}
    runs = open_runs(config.run)
    for name, run in runs.items():
        opened = reopen_run(run, config)
        give_outliers(opened)
        results[name], images, maps = measure(opened, config)
        write_figures(run, "saliency", config, results[name])
        if config.pictures is not None:
            path = Path(config.pictures)
            draw_grid(path if len(runs) == 1 else path.with_stem(f"{path.stem}-{name}"), images, maps)
    if config.plot is not None:
        curves: dict[str, Curve] = {name: (value["thresholds"], value["area"], None) for name, value in results.items()}
        plot_curves(config.plot, curves, "threshold t", "activated area S(t)", logarithmic=True)
    return results


def give_outliers(opened: Reopened) -> None:
    """Give the objective the unknown images that it learned from, where the run had any. Raises UserError."""
    config = opened.config
    if config.outliers is not None:
        folder = config.data_folder
        images = load_outliers(config.outliers, opened.protocol, folder, config.limit_per_class)
        opened.learner.objective.set_outliers(images.to(opened.fabric.device))


def measure(opened: Reopened, config: SaliencyConfig) -> tuple[dict[str, Any], Tensor, Tensor]:
    """S_M(t) over known images, in batches as in training: shuffled, and the last one left out where it is not full.

    Returns:
        thresholds [T]; area [T], the mean share of a map above each; images, how many there were; maps, of how many
        pictures the loss saw a saliency could be taken (an objective may make several views of an image); and then the
        first `SHOWN` of those pictures [n, C, H, W] with their maps [n, H, W], on the CPU.
    """
    images = opened.data.validation if config.part == "validation" else known_test_images(opened)
    images = images.select(draw_sample(len(images), config.limit, config.seed, "saliency"))
    batch_size = min(config.batch_size, len(images))
    order = make_generator(config.seed, "analysis", "saliency", "order")
    thresholds = torch.logspace(math.log10(config.lowest), math.log10(config.highest), config.points)
    area, count = torch.zeros(len(thresholds)), 0
    shown: list[tuple[Tensor, Tensor]] = []
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(config.seed, "analysis", "saliency", "loss"))
        for batch, labels in iterate_batches(images, batch_size, generator=order, drop_last=True):
            pictures, maps = batch_saliency(opened, to_float(batch), labels, config)
            area += activated_area(maps, thresholds).cpu() * len(maps)
            count += len(maps)
            if not shown:
                shown.append((pictures[:SHOWN].detach().cpu(), maps[:SHOWN].cpu()))
    figures = {
        "thresholds": thresholds.tolist(),
        "area": (area / count).tolist(),
        "images": len(images) - len(images) % batch_size,
        "maps": count,
    }
    return figures, *shown[0]


def batch_saliency(opened: Reopened, images: Tensor, labels: Tensor, config: SaliencyConfig) -> tuple[Tensor, Tensor]:
    """The saliency of the objective's summed loss on one batch, in eval mode.

    Args:
        images, labels: [B, C, H, W] float in [0, 1] and [B] int64, on the CPU.

    Returns:
        the pictures that the encoder was given for it, [B', C, H, W], and their maps, [B', H, W]: the batch itself, or
        what the objective makes of it before anything else (its views).

    Raises:
        UserError: the encoder has no map at one of the scales, or the loss is not a number.
    """
    learner, device = opened.learner, opened.fabric.device
    images, labels = images.to(device), labels.to(device)
    calls: list[Call] = []

    def watch(module: Any, inputs: tuple[Tensor], features: Features) -> None:
        calls.append(Call(inputs[0], features))

    handle = learner.encoder.register_forward_hook(watch)
    try:
        loss = torch.stack(list(learner(images, labels).values())).sum()
    finally:
        handle.remove()
    if not bool(loss.isfinite()):
        raise UserError(f"{opened.run.path}: the loss is not a number: the network has diverged")
    own = (call for call in calls if call.images.shape == images.shape and torch.equal(call.images, images))
    call = next(own, calls[0])
    available = {**call.features.intermediate, **call.features.branches}
    missing = sorted(set(config.scales) - set(available))
    if missing:
        there = ", ".join(map(str, sorted(available)))
        raise UserError(f"scales: the encoder has no map at {missing[0]}, only at {there}")
    size = (images.shape[2], images.shape[3])
    return call.images, saliency_maps(loss, [available[scale] for scale in config.scales], size, config.weights)


def draw_grid(path: Path, images: Tensor, maps: Tensor) -> None:
    """Draw images [n, C, H, W] in [0, 1], each beside itself under its map [n, H, W], as PNG. Raises UserError."""
    from matplotlib.figure import Figure

    columns = 4
    rows = math.ceil(len(images) / columns)
    figure = Figure(figsize=(columns * 2.2, rows * 1.15), layout="constrained")
    axes = figure.subplots(rows, columns * 2, squeeze=False).flatten().tolist()
    for axis in axes:
        axis.set_axis_off()
    for index, (image, saliency) in enumerate(zip(images, maps, strict=True)):
        # grey images as three equal channels
        picture = image.expand(3, -1, -1).permute(1, 2, 0).clamp(0, 1).numpy()
        for axis in axes[2 * index : 2 * index + 2]:
            axis.imshow(picture)
        axes[2 * index + 1].imshow(saliency.numpy(), cmap="inferno", alpha=0.6)  # each from 0 to its own maximum
    with replace_file(path) as file:
        figure.savefig(file, format="png", dpi=150)
