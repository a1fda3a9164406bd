"""Pictures with what the network says of them: counterfactuals, saliency, and the most confident mistakes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nas_osr.data.dataset import load_data
from nas_osr.errors import UserError
from nas_osr.evaluation.predictions import Predictions
from nas_osr.evaluation.user_arrays import read_arrays
from nas_osr.metrics.open_set import Array
from nas_osr.reports.detection import shorten
from nas_osr.reports.shown_runs import Runs, ShownRun, need, only_part, only_run, retrainings
from nas_osr.reports.style import COLUMN, INK, PAGE, UNKNOWN, new_figure, styled
from nas_osr.retrain.analysis.confusion import label_names
from nas_osr.retrain.reopen import read_run

ACROSS = 4  # images of a saliency picture beside each other, each with its map
THUMBNAIL = 0.62  # inches
#: Kinds of mistakes, by what they are called.
MISTAKES = ("unknown, accepted", "known, rejected", "known, taken for another")


@styled
def plot_counterfactuals(runs: Runs) -> Figure:
    """Images, their reconstructions, and themselves under every class, with a frame around the best (NAS-OSR).

    At the left each image's class, and what the run's rule says of it.

    Args:
        runs: one split and seed, for which `nas-osr analyse counterfactuals` has left pictures.

    Raises:
        UserError: there are none.
    """
    arrays = pictures_of(runs, "counterfactuals")
    images, columns = arrays["images"], arrays["columns"].tolist()
    figure = new_figure(1, 1.0)
    figure.set_size_inches(min(PAGE, THUMBNAIL * len(columns) + 0.9), picture_height(len(columns), len(images)))
    grid = figure.subplots(len(images), len(columns), squeeze=False)
    for row, pictures in enumerate(images):
        for column, picture in enumerate(pictures):
            show_picture(grid[row, column], picture)
            if column == int(arrays["best"][row]) + 2:
                grid[row, column].spines[:].set(visible=True, color=UNKNOWN, linewidth=2)
            if row == 0:
                grid[row, column].set_title(shorten(columns[column], 9), fontweight="normal", fontsize=7, loc="center")
        caption = caption_of(arrays["true"][row], arrays["given"][row], "\n")
        grid[row, 0].set_ylabel(caption, fontsize=6.5, rotation=0, ha="right", va="center", labelpad=4)
    return figure


def picture_height(columns: int, rows: int) -> float:
    """The height of a table of thumbnails, in inches."""
    side = min(THUMBNAIL, (PAGE - 0.9) / columns)
    return side * rows + 0.35


@styled
def plot_saliency(runs: Runs) -> Figure:
    """Images, each beside itself under its saliency map, with its class and what the run's rule says (GradMix).

    A map goes from 0 to its own maximum. Of an objective that makes views, the pictures are views.

    Args:
        runs: one split and seed, for which `nas-osr analyse saliency` has left pictures.

    Raises:
        UserError: there are none.
    """
    arrays = pictures_of(runs, "saliency")
    images, maps = arrays["images"][:, 0], arrays["maps"]
    rows = math.ceil(len(images) / ACROSS)
    figure = new_figure(2, 0.155 * rows)
    grid = figure.subplots(rows, 2 * ACROSS, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for place, (image, saliency) in enumerate(zip(images, maps, strict=True)):
        left, right = grid[place // ACROSS, 2 * (place % ACROSS) :][:2]
        for axes in (left, right):
            show_picture(axes, image)
        right.imshow(saliency, cmap="inferno", alpha=0.6, vmin=0)
        left.set_title(caption_of(arrays["true"][place], arrays["given"][place]), fontsize=6.5, fontweight="normal")
    return figure


@styled
def plot_mistakes(runs: Runs, *, label: str = "", count: int = 8, data_dir: str | None = None) -> Figure:
    """The most confident mistakes: unknown images that are accepted, known ones rejected, or taken for another class.

    The worst comes first: the most known of what is accepted, the least known of what is rejected. Under each its class
    and the label given.

    Args:
        runs: one split and seed of an evaluated retraining; its test images are read again.
        label: of another rule, see `ShownRun.predictions`.
        count: images of each kind.
        data_dir: folder of the images, where it is not the run's.

    Raises:
        UserError: the images are not there, are not those that were judged, or there is no mistake.
    """
    run = only_run(retrainings(runs), "mistakes")
    part = only_part(run, "mistakes")
    [predictions], [result] = run.predictions(label), run.results(label)
    rows = [found[:count] for found in find_mistakes(predictions)]
    if not any(map(len, rows)):
        raise UserError(f"{part.path}: no test image is mistaken")
    images = judged_images(run, result, data_dir)
    names = [*label_names(predictions), "unknown"]
    figure = new_figure(1, 1.0)
    shown = [(title, found) for title, found in zip(MISTAKES, rows, strict=True) if len(found)]
    across = max(2, *(len(found) for _, found in shown))
    figure.set_size_inches(max(COLUMN, min(PAGE, 0.8 * across + 0.1)), 1.25 * len(shown))
    strips = figure.subfigures(len(shown), 1, squeeze=False)[:, 0]
    for strip, (title, found) in zip(strips, shown, strict=True):
        strip.suptitle(f"{title}: {sum_of(predictions, title)}", x=0.01, ha="left", fontsize=8, fontweight="bold")
        for axes, place in zip(strip.subplots(1, across, squeeze=False)[0], [*found, *[None] * across], strict=False):
            axes.set_axis_off()
            if place is not None:
                show_picture(axes, images[predictions.index[place]])
                given = names[predictions.predicted_label[place]]
                axes.set_title(caption_of(predictions.true_class[place], given, "\n"), fontsize=6, fontweight="normal")
    return figure


def sum_of(predictions: Predictions, title: str) -> str:
    """How many images a kind of mistake is about, of how many."""
    unknown = predictions.true_label == predictions.num_known
    count = len(find_mistakes(predictions)[MISTAKES.index(title)])
    side = int(unknown.sum()) if title == MISTAKES[0] else int((~unknown).sum())
    return f"{count} of {side}"


def find_mistakes(predictions: Predictions) -> tuple[Array, Array, Array]:
    """The places of mistakes of each of `MISTAKES`, the most confident first."""
    unknown = predictions.true_label == predictions.num_known
    accepted = predictions.predicted_label < predictions.num_known
    by_rank = np.argsort(-predictions.knownness, kind="stable")
    wrong = ~unknown & accepted & (predictions.predicted_label != predictions.true_label)
    rejected = ~unknown & ~accepted
    return (
        by_rank[(unknown & accepted)[by_rank]],
        by_rank[::-1][rejected[by_rank[::-1]]],
        by_rank[wrong[by_rank]],
    )


def judged_images(run: ShownRun, result: dict[str, Any], data_dir: str | None) -> Array:
    """The test images [n, C, H, W] uint8 that a result is about. Raises UserError where they are others today."""
    [part] = run.parts
    kept = read_run(part, data_dir)
    own = kept.protocol.to_dict()
    if result["protocol"] != own:
        raise UserError(f"{part.path}: plot mistakes shows the run's own test images, not another unknown source's")
    config = kept.config
    data = load_data(
        kept.protocol, config.data_folder, limit_per_class=config.limit_per_class, skip_broken=config.skip_broken
    )
    if data.test_fingerprint() != result.get("data_fingerprints", {}).get("test"):
        raise UserError(f"{part.path}: the test images are not those that were judged: give their folder as --data_dir")
    images: Array = data.test().images.numpy()
    return images


def pictures_of(runs: Runs, kind: str) -> dict[str, Array]:
    """The arrays that an analysis has left; see `nas_osr.retrain.analysis.frozen_network.keep_pictures`."""
    part = only_part(only_run(retrainings(runs), kind), kind)
    return read_arrays(need(part.path / f"analysis-{kind}.npz", f"analyse {kind} {part.path}"), any_names=True)


def show_picture(axes: Axes, image: Array) -> None:
    """An image [C, H, W] uint8, a grey one as three equal channels, with every pixel as it is."""
    axes.imshow(np.broadcast_to(image, (3, *image.shape[1:])).transpose(1, 2, 0), interpolation="nearest")
    axes.grid(visible=False)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.title.set_color(INK)


def caption_of(true: str, given: str, between: str = " ") -> str:
    """An image's class and the label that it was given; what is not known is left out."""
    parts: Sequence[str] = [shorten(str(true), 12), f"\u2192 {shorten(str(given), 12)}" if given else ""]
    return between.join(part for part in parts if part)
