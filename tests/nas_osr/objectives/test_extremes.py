"""No objective makes NaN or infinity of finite input, in its loss terms or in any gradient."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nas_osr.objectives import OBJECTIVES, make_objective, objective_class
from nas_osr.outputs import Features
from nas_osr.search_spaces.encoder import feature_shapes
from nas_osr.search_spaces.space import Space
from nas_osr.search_spaces.supernet import build_supernet
from nas_osr.training.learner import Learner

IMAGE = (3, 32, 32)
CLASSES = 3
OUTLIERS = torch.randint(0, 256, (8, *IMAGE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
GAN = {"gan_width": 4, "gan_latent": 4}
DECODER = {"decoder_channels": 16}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "vae_contrastive": ("vae_contrastive", DECODER),
    "vae_contrastive, paper": ("vae_contrastive", {**DECODER, "temperature": 10.0, "pixel_std": (0.2, 0.2, 0.2)}),
    "cross_entropy": ("cross_entropy", {}),
    "cross_entropy, center": ("cross_entropy", {"center_weight": 1.0, "label_smoothing": 0.1}),
    "cac": ("cac", {}),
    "crosr": ("crosr", {"latent_channels": 2, "decoder_channels": 4}),
    "confidence": ("confidence", GAN),
    "confidence, outliers": ("confidence", {"source": "outliers"}),
    "gmvae": ("gmvae", {**DECODER, "subclusters": (1, 2, 3), "v_prior": True}),
    "gmvae, gaussian": ("gmvae", {**DECODER, "reconstruction": "truncated_gaussian"}),
    "gmvae, narrow gaussian": ("gmvae", {**DECODER, "reconstruction": "truncated_gaussian", "pixel_scale": 1e-3}),
    "supcon": ("supcon", {}),
    "supcon, gradcam": ("supcon", {"saliency": "gradcam", "saliency_layers": (0,)}),
    "supcon, mixup": ("supcon", {"mix": "mixup"}),
    "supcon, one view": ("supcon", {"mix": "none", "augment": False}),
    "moco": ("moco", {"queue_size": 5}),
    "moco, gradmix": ("moco", {"queue_size": 5, "mix": "gradmix"}),
    "arpl": ("arpl", {}),
    "arpl, confusing": ("arpl", {"confusing_samples": True, "margin": 1.0, **GAN}),
    "proser": ("proser", {"placeholders": 3}),
    "conosr": ("conosr", {}),
    "conosr, not mixed": ("conosr", {"mix_alpha": 0.0, "label_smoothing": 0.0, "views": "simclr"}),
}


class Amplifier(nn.Module):
    """An encoder without normalisation, so that its maps are as large as its gain makes them."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 4, 4, 4), nn.Conv2d(4, 4, 4, 4)
        self.gain = 1.0

    def forward(self, images: Tensor) -> Features:
        fine = self.fine(images) * self.gain
        coarse = self.coarse(fine)
        return Features({2: coarse}, {0: fine, 2: coarse})


@dataclass(frozen=True)
class Case:
    """Amplification of maps and of the heads' weights, images, labels and precision."""

    gain: float = 1.0
    heads: float = 1.0
    images: str = "random"
    labels: list[int] = field(default_factory=lambda: [0, 1, 2, 0])
    bf16: bool = False
    progress: float = 1.0

    def batch(self) -> tuple[Tensor, Tensor]:
        shape = (len(self.labels), *IMAGE)
        images = {"random": torch.rand(shape), "black": torch.zeros(shape), "white": torch.ones(shape)}
        images["equal"] = torch.rand(1, *IMAGE).expand(shape).contiguous()
        return images[self.images], torch.tensor(self.labels)


CASES = st.builds(
    Case,
    gain=st.sampled_from([0.0, 1e-30, 1e-8, 1.0, 1e4, 1e8]),
    heads=st.sampled_from([0.0, 1.0, 1e2, 1e4]),
    images=st.sampled_from(["random", "black", "white", "equal"]),
    labels=st.lists(st.integers(0, CLASSES - 1), min_size=1, max_size=5),
    bf16=st.booleans(),
    progress=st.sampled_from([0.0, 0.3, 1.0]),
)


def build(kind: str, case: Case, encoder: nn.Module | None = None) -> Learner:
    name, config = KINDS[kind]
    encoder = encoder or Amplifier()
    shapes = feature_shapes(encoder, IMAGE)
    objective = make_objective(name, shapes, IMAGE, CLASSES, objective_class(name).config_class(**config))
    if objective.needs_outliers(objective.config):
        objective.set_outliers(OUTLIERS)
    learner = Learner(encoder, objective)
    if isinstance(encoder, Amplifier):
        encoder.gain = case.gain
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.mul_(case.heads)
    return learner


def test_every_objective_is_covered() -> None:
    assert {name for name, _ in KINDS.values()} == set(OBJECTIVES)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25)
@example(Case(gain=0.0, heads=0.0))
@example(Case(gain=1e8, heads=1e4, labels=[0]))
@example(Case(gain=1e8, heads=1e4, images="white"))
@example(Case(gain=1e8, heads=1e4, labels=[1, 1, 1], images="equal", bf16=True))
@given(case=CASES)
def test_losses_and_gradients_are_finite(kind: str, case: Case) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        check(build(kind, case), case)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(
    "case",
    [Case(images="black", labels=[1]), Case(images="equal", labels=[0, 0], bf16=True), Case(images="white", bf16=True)],
    ids=["one black", "two equal", "white"],
)
def test_a_supernet_survives_images_without_variance(objective: str, case: Case) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        supernet = build_supernet(Space(3, 16, ("skip", "conv", "conv2"), (2,)), 3, (0.5,) * 3, (0.25,) * 3)
        check(build(objective, case, supernet), case)


def check(learner: Learner, case: Case) -> None:
    """Every player's terms and gradients are finite."""
    images, labels = case.batch()
    for player in learner.objective.players:
        learner.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=case.bf16):
            terms = learner(images, labels, player, case.progress)
        assert terms
        for name, value in terms.items():
            assert bool(value.isfinite()), (player, name, value)
        torch.stack(list(terms.values())).sum().backward()
        for name, parameter in learner.named_parameters():
            if parameter.grad is not None:
                assert bool(parameter.grad.isfinite().all()), (player, name)
