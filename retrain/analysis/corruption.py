"""Robustness to corruptions (Hendrycks and Dietterich 2019): 15 kinds at 5 severities, by `imagecorruptions-imaug`.

The severities are those of ImageNet-C, made for larger images: harder on 32 pixels than the files of CIFAR-10-C.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from nas_osr.configuration import Numbers, UserPath, parse_range
from nas_osr.errors import UserError
from nas_osr.option_docs import POSITIVE, SEEDS
from nas_osr.retrain.analysis.base import (
    Curve,
    Curves,
    NetworkAnalysis,
    Table,
    check_picture,
    columns_table,
    folder_name,
    require,
    runs_table,
)
from nas_osr.runs.progress import tell
from nas_osr.runs.run_folder import RunFolder
from nas_osr.seeds import derive_seed

if TYPE_CHECKING:
    from torch import Tensor

    from nas_osr.data.dataset import LabelledImages
    from nas_osr.retrain.reopen import Reopened

CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise",
    "defocus_blur", "glass_blur", "motion_blur", "zoom_blur",
    "snow", "frost", "fog", "brightness",
    "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
OWN_RANDOMNESS = ("impulse_noise", "glass_blur")  # take a seed; the others draw from numpy's global state
MIN_SIDE = 32


@dataclass
class Corruption(NetworkAnalysis):
    """Measure accuracy on corrupted test images: 15 kinds at 5 severities (Hendrycks and Dietterich 2019)."""

    name: ClassVar[str] = "corruption"

    kinds: list[str] = field(default_factory=lambda: list(CORRUPTIONS))
    "which corruptions."
    severities: Numbers = "1-5"
    "which severities, such as 1-5 or 1,3."
    limit: Annotated[int | None, POSITIVE] = None
    "use a random sample of so many known test images (and as many unknown ones); all when not given."
    unknown: bool = False
    "corrupt the unknown test images alike, and report the AUROC too."
    seed: Annotated[int, SEEDS] = 0
    "draws the sample and what is random in a corruption."
    plot: UserPath | None = None
    "file for accuracy against severity: .png, .svg or .pdf."
    quiet: bool = False
    "print no progress."

    def check(self) -> None:
        strange = [kind for kind in self.kinds if kind not in CORRUPTIONS]
        if strange or not self.kinds:
            raise UserError(f"kinds must be of {', '.join(CORRUPTIONS)}, got {', '.join(strange) or 'none'}")
        if not all(1 <= severity <= 5 for severity in parse_range("severities", self.severities)):
            raise UserError(f"severities must lie in 1 to 5, got {self.severities}")
        check_picture(self.plot)
        require("imagecorruptions")

    def report(self, line: str) -> None:
        """Tell a person how far it is."""
        if not self.quiet:
            tell(line)

    def figures(self, run: RunFolder) -> dict[str, Any]:
        """Closed-set accuracy, and AUROC where asked for, with the run's own rule.

        The rule learns and takes its threshold from clean images.

        Returns:
            clean_accuracy, accuracy ([one per severity] by kind), mean_accuracy (over all of them), images (how many
            known and unknown test images), severities; with `unknown` clean_auroc, auroc and mean_auroc alike.

        Raises:
            UserError: missing images, or images that cannot be corrupted.
        """
        import numpy as np

        from nas_osr.evaluation.judging import collect_for, evaluate_rule
        from nas_osr.retrain.evaluate import fit_rules
        from nas_osr.scoring import make_rule

        self.report(f"{folder_name(run)}: closed-set accuracy, at each severity")
        opened = self.reopen(run)
        rule = make_rule(opened.objective.rule, opened.objective.rule_settings, import_plugins=False)
        fit_rules([rule], opened.learner, opened.data, opened.fabric.device)
        clean, places = self.sample(opened)
        severities = parse_range("severities", self.severities)

        def score(images: LabelledImages) -> dict[str, float | None]:
            [(outputs, _)] = collect_for([rule], opened.learner.infer, images, opened.fabric.device)
            return evaluate_rule(rule, outputs, images.labels, images.source_labels)[0]

        names = {"accuracy": "closed_set_accuracy", **({"auroc": "auroc"} if self.unknown else {})}
        before = score(clean)
        figures: dict[str, Any] = {f"clean_{name}": before[metric] for name, metric in names.items()}
        figures |= {name: {kind: [] for kind in self.kinds} for name in names}
        for kind in self.kinds:
            for severity in severities:
                seeds = [derive_seed(self.seed, "corruption", kind, severity, place) for place in places]
                after = score(replace(clean, images=corrupt(clean.images, kind, severity, seeds)))
                for name, metric in names.items():
                    figures[name][kind].append(after[metric])
            self.report(f"{kind:<18}{' '.join(f'{value:.4f}' for value in figures['accuracy'][kind])}")
        for name in names:
            values = [value for row in figures[name].values() for value in row if value is not None]
            figures[f"mean_{name}"] = float(np.mean(values)) if values else None
        known = int((clean.labels < opened.protocol.num_known).sum())
        return {**figures, "severities": severities, "images": {"known": known, "unknown": len(clean) - known}}

    def sample(self, opened: Reopened) -> tuple[LabelledImages, list[int]]:
        """The test images that are corrupted, and their places in the test set."""
        import torch

        from nas_osr.retrain.analysis.frozen_network import draw_sample

        test, num_known = opened.data.test(), opened.protocol.num_known
        parts = {"known": test.labels < num_known, "unknown": test.labels == num_known}
        drawn = []
        for part in parts if self.unknown else ["known"]:
            members = torch.nonzero(parts[part]).flatten()
            drawn.append(members[draw_sample(len(members), self.limit, self.seed, "corruption", part)])
        index = torch.cat(drawn)
        return test.select(index), index.tolist()

    def curves(self, results: Mapping[str, dict[str, Any]]) -> Curves:
        """Accuracy against severity, a curve for each run."""
        lines: dict[str, Curve] = {}
        for name, figures in results.items():
            columns = list(zip(*figures["accuracy"].values(), strict=True))
            means = [sum(column) / len(column) for column in columns]
            lines[name] = ([0, *figures["severities"]], [figures["clean_accuracy"], *means], None)
        return Curves(lines, "severity (0: clean)", "closed-set accuracy, mean over kinds")

    def tables(self, results: Mapping[str, dict[str, Any]]) -> Iterator[Table]:
        """By kind: of one run a column for each severity, of several runs one for each run."""
        for metric in ("accuracy", "auroc") if self.unknown else ("accuracy",):
            means = {name: mean_by_kind(figures, metric) for name, figures in results.items()}
            if len(results) > 1:
                yield runs_table(means, f"{metric}, mean over severities {self.severities}")
                continue
            [figures], [by_kind] = results.values(), means.values()
            clean = by_kind.pop("clean")
            columns = {
                f"severity {severity}": {kind: row[place] for kind, row in figures[metric].items()}
                for place, severity in enumerate(figures["severities"])
            }
            title = f"{metric}, {'-' if clean is None else f'{clean:.4f}'} on clean images"
            yield columns_table({**columns, "mean": by_kind}, title)


def mean_by_kind(figures: Mapping[str, Any], metric: str) -> dict[str, float | None]:
    """Clean images, each kind over its severities, and the mean over all."""
    rows = {kind: [value for value in row if value is not None] for kind, row in figures[metric].items()}
    means = {kind: sum(row) / len(row) if row else None for kind, row in rows.items()}
    return {"clean": figures[f"clean_{metric}"], **means, "mean": figures[f"mean_{metric}"]}


def corrupt(images: Tensor, kind: str, severity: int, seeds: list[int]) -> Tensor:
    """Corrupted images. The same image, kind, severity and seed give the same result; numpy's random state is kept.

    The library makes colour images only: a grey one is corrupted as three equal channels, of which the green one stays,
    so that noise keeps its strength.

    Args:
        images: uint8 [n, C, H, W], C 1 or 3, H and W at least 32.
        kind: one of `CORRUPTIONS`.
        severity: 1 to 5.
        seeds: one for each image.

    Returns:
        uint8, the same shape.

    Raises:
        UserError: images of another shape.
    """
    import numpy as np
    import torch

    library = require("imagecorruptions")
    channels, height, width = images.shape[1:]
    if channels not in (1, 3) or min(height, width) < MIN_SIDE:
        raise UserError(f"corruptions need 1 or 3 channels and {MIN_SIDE} pixels, not {channels}x{height}x{width}")
    pictures = images.permute(0, 2, 3, 1).contiguous().numpy()
    made = []
    state = np.random.get_state()  # noqa: NPY002 - what the library draws from
    try:
        for picture, seed in zip(pictures, seeds, strict=True):
            own = {"seed": seed % 2**32} if kind in OWN_RANDOMNESS else {}
            np.random.seed(seed % 2**32)  # noqa: NPY002
            made.append(library.corrupt(picture, severity=severity, corruption_name=kind, **own))
    finally:
        np.random.set_state(state)  # noqa: NPY002
    result = torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2)
    return (result if channels == 3 else result[:, 1:2]).contiguous()
