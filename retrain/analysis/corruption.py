"""Robustness to corruptions (Hendrycks and Dietterich 2019): 15 kinds at 5 severities, by `imagecorruptions-imaug`.

The severities are those of ImageNet-C, made for larger images: harder on 32 pixels than the files of CIFAR-10-C.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nas_osr.configuration import parse_range
from nas_osr.data.dataset import LabelledImages
from nas_osr.errors import UserError
from nas_osr.evaluation.judging import collect_outputs, evaluate_rule
from nas_osr.retrain.analysis.common import (
    Curve,
    check_picture,
    draw_sample,
    open_runs,
    plot_curves,
    reopen_run,
    require,
    write_figures,
)
from nas_osr.retrain.analysis.config import CORRUPTIONS, CorruptionConfig
from nas_osr.retrain.evaluate import fit_rules
from nas_osr.retrain.reopen import Reopened
from nas_osr.scoring import make_rule
from nas_osr.seeds import derive_seed

OWN_RANDOMNESS = ("impulse_noise", "glass_blur")  # take a seed; the others draw from numpy's global state
MIN_SIDE = 32
Report = Callable[[str], None]


def run_corruption(config: CorruptionConfig, report: Report = lambda line: None) -> dict[str, dict[str, Any]]:
    """`measure` of each run by its folder's name; written into the run as analysis-corruption.json too.

    Args:
        report: is told each corruption that is done.

    Raises:
        UserError: the library is not installed, no finished retraining, missing images, or a strange option.
    """
    strange = [kind for kind in config.kinds if kind not in CORRUPTIONS]
    if strange or not config.kinds:
        raise UserError(f"kinds must be of {', '.join(CORRUPTIONS)}, got {', '.join(strange) or 'none'}")
    severities = parse_range("severities", config.severities)
    if not all(1 <= severity <= 5 for severity in severities):
        raise UserError(f"severities must lie in 1 to 5, got {config.severities}")
    check_picture(config.plot)
    require("imagecorruptions")
    results = {}
    for name, run in open_runs(config.run).items():
        report(f"{name}: closed-set accuracy, at each severity")
        results[name] = measure(reopen_run(run, config), config, severities, report)
        write_figures(run, "corruption", config, results[name])
    if config.plot is not None:
        curves: dict[str, Curve] = {}
        for name, figures in results.items():
            table = np.array(list(figures["accuracy"].values()))
            curves[name] = ([0, *severities], [figures["clean_accuracy"], *table.mean(axis=0)], None)
        plot_curves(config.plot, curves, "severity (0: clean)", "closed-set accuracy, mean over kinds")
    return results


def measure(opened: Reopened, config: CorruptionConfig, severities: list[int], report: Report) -> dict[str, Any]:
    """Closed-set accuracy, and AUROC where asked for, with the run's own rule.

    The rule learns and takes its threshold from clean images.

    Returns:
        clean_accuracy, accuracy ([one per severity] by kind), mean_accuracy (over all of them), images (how many known
        and unknown test images), severities; with `config.unknown` clean_auroc, auroc and mean_auroc alike.
    """
    assert opened.config.rule is not None
    rule = make_rule(opened.config.rule, opened.config.rule_config, import_plugins=False)
    fit_rules([rule], opened.learner, opened.data, opened.fabric.device)
    test = opened.data.test()
    known, unknown = (torch.nonzero(mask).flatten() for mask in split(test, opened.protocol.num_known))
    index = known[draw_sample(len(known), config.limit, config.seed, "corruption", "known")]
    if config.unknown:
        drawn = unknown[draw_sample(len(unknown), config.limit, config.seed, "corruption", "unknown")]
        index = torch.cat([index, drawn])
    clean = test.select(index)

    def score(images: LabelledImages) -> dict[str, float | None]:
        outputs = collect_outputs(opened.learner.infer, images, device=opened.fabric.device)
        return evaluate_rule(rule, outputs, images.labels, images.source_labels)[0]

    names = {"accuracy": "closed_set_accuracy", **({"auroc": "auroc"} if config.unknown else {})}
    before = score(clean)
    figures: dict[str, Any] = {f"clean_{name}": before[metric] for name, metric in names.items()}
    figures |= {name: {kind: [] for kind in config.kinds} for name in names}
    for kind in config.kinds:
        for severity in severities:
            seeds = [derive_seed(config.seed, "corruption", kind, severity, place) for place in index.tolist()]
            after = score(replace(clean, images=corrupt(clean.images, kind, severity, seeds)))
            for name, metric in names.items():
                figures[name][kind].append(after[metric])
        report(f"{kind:<18}{' '.join(f'{value:.4f}' for value in figures['accuracy'][kind])}")
    for name in names:
        values = [value for row in figures[name].values() for value in row if value is not None]
        figures[f"mean_{name}"] = float(np.mean(values)) if values else None
    figures["severities"] = severities
    figures["images"] = {"known": int((clean.labels < opened.protocol.num_known).sum())}
    figures["images"]["unknown"] = len(clean) - figures["images"]["known"]
    return figures


def split(images: LabelledImages, num_known: int) -> tuple[Tensor, Tensor]:
    """[n] bool: which images are of known classes, and which are not."""
    return images.labels < num_known, images.labels == num_known


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
    library = require("imagecorruptions")
    channels, height, width = images.shape[1:]
    if channels not in (1, 3) or min(height, width) < MIN_SIDE:
        raise UserError(f"corruptions need 1 or 3 channels and {MIN_SIDE} pixels, not {channels}x{height}x{width}")
    pictures = images.permute(0, 2, 3, 1).contiguous().numpy()
    made = []
    with kept_numpy_state():
        for picture, seed in zip(pictures, seeds, strict=True):
            own = {"seed": seed % 2**32} if kind in OWN_RANDOMNESS else {}
            np.random.seed(seed % 2**32)  # noqa: NPY002 - what the library draws from
            made.append(library.corrupt(picture, severity=severity, corruption_name=kind, **own))
    result = torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2)
    return (result if channels == 3 else result[:, 1:2]).contiguous()


@contextmanager
def kept_numpy_state() -> Iterator[None]:
    """Put numpy's global random state back at the end."""
    state = np.random.get_state()  # noqa: NPY002 - the library's
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002 - the library's
