"""The activated area of the saliency, S_M(t): how much of the images a network's own loss looks at (GradMix)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from nas_osr.configuration import UserPath, check_choice
from nas_osr.errors import UserError
from nas_osr.option_docs import POSITIVE, SEEDS, Range
from nas_osr.retrain.analysis.base import (
    Curves,
    NetworkAnalysis,
    Table,
    check_picture,
    runs_table,
)
from nas_osr.runs.run_folder import RunFolder
from nas_osr.seeds import derive_seed, make_generator

if TYPE_CHECKING:
    from torch import Tensor

    from nas_osr.outputs import Features
    from nas_osr.retrain.reopen import Reopened

GRID = 16  # images in the picture


@dataclass
class Saliency(NetworkAnalysis):
    """Measure the activated area of the saliency, S_M(t): the share of the map above t (GradMix)."""

    name: ClassVar[str] = "saliency"

    part: str = "validation"
    "whose known images are used: validation or test."
    scales: Annotated[list[int], Range(-1, 2)] = field(default_factory=list)
    """maps of the encoder whose saliency is summed: -1 is 1/2 of the image side, 0 is 1/4, 1 is 1/8, 2 is 1/16; the
    last one of 4x4 positions when not given."""
    weights: str = "layercam"
    "what weighs a map's channels: layercam (the gradient at each place) or gradcam (its mean)."
    lowest: Annotated[float, POSITIVE] = 1e-5
    "smallest threshold t."
    highest: Annotated[float, POSITIVE] = 1e-3
    "largest threshold t."
    points: Annotated[int, POSITIVE] = 9
    "number of thresholds, evenly spaced in their logarithm."
    limit: Annotated[int | None, POSITIVE] = None
    "use a random sample of so many images; all when not given."
    batch_size: Annotated[int, POSITIVE] = 256
    "images in one loss; where that is a mean over the batch, the maps shrink as the batch grows."
    seed: Annotated[int, SEEDS] = 0
    "draws the sample, the order of the images and what is random in the loss."
    plot: UserPath | None = None
    "file for S_M(t): .png, .svg or .pdf."
    pictures: UserPath | None = None
    "file for a grid of images with their saliency: .png, .svg or .pdf."

    def check(self) -> None:
        from nas_osr.objectives.parts.saliency_maps import WEIGHTS

        check_choice(self, "part", ("validation", "test"))
        check_choice(self, "weights", WEIGHTS)
        if not self.lowest < self.highest:
            raise UserError("saliency: lowest must be below highest")
        check_picture(self.plot)
        check_picture(self.pictures)

    def figures(self, run: RunFolder) -> dict[str, Any]:
        """See `activated_areas`; some images with their maps are left in the run folder. Raises UserError."""
        from nas_osr.retrain.analysis.frozen_network import keep_pictures, name_given

        opened = self.reopen(run)
        give_outliers(opened)
        figures, images, maps, labels = self.activated_areas(opened)
        names = ["+".join(names) for names in opened.protocol.known]
        true = [names[label] for label in labels] if len(labels) == len(images) else [""] * len(images)  # of views
        given = name_given(opened, images)
        keep_pictures(run, self.name, images[:, None], true, given, maps=maps.numpy())
        return figures

    def activated_areas(self, opened: Reopened) -> tuple[dict[str, Any], Tensor, Tensor, list[int]]:
        """S_M(t) over known images, in batches as in training: shuffled, the last one left out where it is not full.

        Returns:
            thresholds [T]; area [T], the mean share of a map above each; images, how many there were; maps, of how many
            pictures the loss saw a saliency could be taken (an objective may make several views of an image); and then
            the first `GRID` of those pictures [n, C, H, W] with their maps [n, H, W], on the CPU, and their labels
            (none where the pictures are views).
        """
        import torch

        from nas_osr.data.batches import iterate_batches, to_float
        from nas_osr.objectives.parts.saliency_maps import activated_area
        from nas_osr.retrain.analysis.frozen_network import draw_sample, known_test_images

        images = opened.data.validation if self.part == "validation" else known_test_images(opened)
        images = images.select(draw_sample(len(images), self.limit, self.seed, "saliency"))
        batch_size = min(self.batch_size, len(images))
        order = make_generator(self.seed, "analysis", "saliency", "order")
        thresholds = torch.logspace(math.log10(self.lowest), math.log10(self.highest), self.points)
        area, count = torch.zeros(len(thresholds)), 0
        shown: list[tuple[Tensor, Tensor, list[int]]] = []
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(self.seed, "analysis", "saliency", "loss"))
            for batch, labels in iterate_batches(images, batch_size, generator=order, drop_last=True):
                pictures, maps = self.batch_saliency(opened, to_float(batch), labels)
                area += activated_area(maps, thresholds).cpu() * len(maps)
                count += len(maps)
                if not shown:
                    own = labels[:GRID].tolist() if len(pictures) == len(labels) else []
                    shown.append((pictures[:GRID].detach().cpu(), maps[:GRID].cpu(), own))
        figures = {
            "thresholds": thresholds.tolist(),
            "area": (area / count).tolist(),
            "images": len(images) - len(images) % batch_size,
            "maps": count,
        }
        return figures, *shown[0]

    def batch_saliency(self, opened: Reopened, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The saliency of the objective's summed loss on one batch, in eval mode.

        Args:
            images, labels: [B, C, H, W] float in [0, 1] and [B] int64, on the CPU.

        Returns:
            the pictures that the encoder was given for it, [B', C, H, W], and their maps, [B', H, W]: the batch itself,
            or what the objective makes of it before anything else (its views).

        Raises:
            UserError: the encoder has no map at one of the scales, or a coarser one, or the loss is not a number.
        """
        import torch

        from nas_osr.objectives.parts.saliency_maps import choose_scales, distinct_maps, saliency_maps
        from nas_osr.outputs import FeatureShapes

        learner, device = opened.learner, opened.fabric.device
        images, labels = images.to(device), labels.to(device)
        calls: list[tuple[Tensor, Features]] = []  # of the encoder: what it was given, and what it returned

        def watch(module: Any, inputs: tuple[Tensor], features: Features) -> None:
            calls.append((inputs[0], features))

        handle = learner.encoder.register_forward_hook(watch)
        try:
            loss = torch.stack(list(learner(images, labels).values())).sum()
        finally:
            handle.remove()
        if not bool(loss.isfinite()):
            raise UserError(f"{opened.run.path}: the loss is not a number: the network has diverged")
        own = (call for call in calls if call[0].shape == images.shape and torch.equal(call[0], images))
        pictures, features = next(own, calls[0])
        available = {**features.intermediate, **features.branches}
        shapes = {scale: (map_.shape[1], map_.shape[2], map_.shape[3]) for scale, map_ in available.items()}
        scales = choose_scales(FeatureShapes(shapes, {}), self.scales, "scales")
        maps = distinct_maps([available[scale] for scale in scales])
        return pictures, saliency_maps(loss, maps, (images.shape[2], images.shape[3]), self.weights)

    def curves(self, results: Mapping[str, dict[str, Any]]) -> Curves:
        """S_M(t) against t, a curve for each run."""
        lines = {name: (figures["thresholds"], figures["area"], None) for name, figures in results.items()}
        return Curves(lines, "threshold t", "activated area S(t)", logarithmic=True)

    def tables(self, results: Mapping[str, dict[str, Any]]) -> Iterator[Table]:
        """The activated area at each threshold: a column for each run."""
        columns = {}
        for name, figures in results.items():
            areas = zip(figures["thresholds"], figures["area"], strict=True)
            columns[name] = {f"S({threshold:.2e})": area for threshold, area in areas}
        yield runs_table(columns)


def give_outliers(opened: Reopened) -> None:
    """Give the objective the unknown images that it learned from, where the run had any. Raises UserError."""
    from nas_osr.data.outliers import load_outliers

    config = opened.config
    if config.outliers is not None:
        images = load_outliers(
            config.outliers, opened.protocol, config.data_folder, config.limit_per_class, config.skip_broken
        )
        opened.learner.objective.set_outliers(images.to(opened.fabric.device))
