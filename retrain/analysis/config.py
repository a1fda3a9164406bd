"""The options of `nas-osr analyse KIND`. Free of torch, so that the command line can show its help at once."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from nas_osr.configuration import Numbers

# Which run, and how it is shown: no part of what is computed.
NOT_RECORDED = frozenset({"run", "json", "quiet", "plot", "pictures", "data_dir", "plugin", "threads"})

CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise",
    "defocus_blur", "glass_blur", "motion_blur", "zoom_blur",
    "snow", "frost", "fog", "brightness",
    "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip


@dataclass
class AnalysisConfig:
    """Options of every analysis.

    Args:
        run: folder of one retraining, or of several (`split-0` ...).
        json: print the result as one JSON object: the figures of each run by its folder's name.
    """

    run: str
    json: bool = False

    def recorded(self) -> dict[str, Any]:
        """What analysis-KIND.json holds of the options: those that decide the figures, as plain values."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name not in NOT_RECORDED}


@dataclass
class ConfusionConfig(AnalysisConfig):
    """Show which known class each unknown class is mistaken for (CAC, fig. 4), from the run's predictions.

    Args:
        closed: ignore the threshold: the most likely known class of every image, rejected or not.
        label: read predictions-LABEL.csv, which `evaluate` left under another rule or unknown source.
    """

    closed: bool = False
    label: str = ""


@dataclass
class UnknownsConfig(AnalysisConfig):
    """Show macro-F1 against the number of unknown classes and openness (GMVAE; NAS-OSR, fig. 3).

    Args:
        label: read metrics-LABEL.json, which `evaluate` left under another rule or unknown source.
        plot: file for the curve: .png, .svg or .pdf.
    """

    label: str = ""
    plot: str | None = None


@dataclass
class NetworkConfig(AnalysisConfig):
    """Options of the analyses that run the network.

    Args:
        data_dir: folder of the images, where it is not the run's.
        device: auto, cpu, cuda or cuda:INDEX.
        precision: auto, 32-true or bf16-mixed.
        threads: CPU threads; 0 leaves torch's choice.
        plugin: modules with your own classes that the run was made with; a run folder by itself imports nothing.
    """

    data_dir: str | None = None
    device: str = "auto"
    precision: str = "auto"
    threads: int = 0
    plugin: list[str] = field(default_factory=list)


@dataclass
class CorruptionConfig(NetworkConfig):
    """Measure accuracy on corrupted test images: 15 kinds at 5 severities (Hendrycks and Dietterich 2019).

    Args:
        kinds: which corruptions; all 15 when not given.
        severities: which severities, such as 1-5 or 1,3.
        limit: use a random sample of so many known test images (and as many unknown ones); all when not given.
        unknown: corrupt the unknown test images alike, and report the AUROC too.
        seed: draws the sample and what is random in a corruption.
        plot: file for accuracy against severity: .png, .svg or .pdf.
        quiet: print no progress.
    """

    kinds: list[str] = field(default_factory=lambda: list(CORRUPTIONS))
    severities: Numbers = "1-5"
    limit: int | None = None
    unknown: bool = False
    seed: int = 0
    plot: str | None = None
    quiet: bool = False


@dataclass
class ProbeConfig(NetworkConfig):
    """Train a linear classifier on the frozen encoder's pooled features; top-1 and top-5 closed-set accuracy.

    Args:
        inverse_penalty: C of the logistic regression; smaller values regularise more.
        iterations: limit of its optimiser.
    """

    inverse_penalty: float = 1.0
    iterations: int = 1000


@dataclass
class DimensionConfig(NetworkConfig):
    """Estimate the intrinsic dimension of the features of known training images (GradMix, table 1).

    Args:
        estimators: of scikit-dimension: TwoNN, MLE or lPCA.
        limit: most images in an estimate, drawn from all classes and again from each class.
        seed: draws them.
    """

    estimators: list[str] = field(default_factory=lambda: ["TwoNN", "MLE"])
    limit: int = 5000
    seed: int = 0


@dataclass
class SaliencyConfig(NetworkConfig):
    """Measure the activated area of the saliency, S_M(t): the share of the map above t (GradMix).

    Args:
        part: whose known images are used: validation or test.
        scales: maps of the encoder whose saliency is summed: -1 is 1/2 of the image side, 0 is
            1/4, 1 is 1/8, 2 is 1/16.
        weights: what weighs a map's channels: layercam (the gradient at each place) or gradcam (its mean).
        lowest: smallest threshold t.
        highest: largest threshold t.
        points: number of thresholds, evenly spaced in their logarithm.
        limit: use a random sample of so many images; all when not given.
        batch_size: images in one loss; where that is a mean over the batch, the maps shrink as the batch grows.
        seed: draws the sample, the order of the images and what is random in the loss.
        plot: file for S_M(t): .png, .svg or .pdf.
        pictures: file for a grid of images with their saliency: .png.
    """

    part: str = "validation"
    scales: list[int] = field(default_factory=lambda: [2])
    weights: str = "layercam"
    lowest: float = 1e-5
    highest: float = 1e-3
    points: int = 9
    limit: int | None = None
    batch_size: int = 256
    seed: int = 0
    plot: str | None = None
    pictures: str | None = None
