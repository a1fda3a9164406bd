"""Settings that nothing reads as the others are: refused where they are set, and left alone where they are usual."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from nas_osr.data.protocols import make_protocol
from nas_osr.errors import UserError
from nas_osr.objectives import OBJECTIVES, make_objective, objective_class, resolve_objective_config
from nas_osr.objectives.parts.side_tasks import ObjectiveConfig
from nas_osr.plain import plain
from nas_osr.plans import plan_objective
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.search_spaces.encoder import feature_shapes
from nas_osr.training.learner import Learner
from tests.nas_osr.objectives.parts.test_side_tasks import IMAGE, Pyramid, images_and_labels

PROTOCOLS = ("digits", "cifar10")
# objective, settings, and one more that nothing reads then
IDLE: list[tuple[str, dict[str, Any], tuple[str, Any], str]] = [
    ("cross_entropy", {}, ("cosine_scale", 8.0), "with classifier linear"),
    ("cross_entropy", {"classifier": "scaled_cosine"}, ("cosine_scale", 8.0), "with classifier scaled_cosine"),
    ("cross_entropy", {"classifier": "cosine"}, ("bias", False), "with classifier cosine"),
    ("cross_entropy", {"logit_norm": 0.04, "bias": False}, ("feature_norm", 0.1), "with logit_norm and no bias"),
    ("cross_entropy", {}, ("side_weight", 0.1), "with side_task none"),
    ("cac", {}, ("side_weight", 0.1), "with side_task none"),
    ("crosr", {"reconstruction_weight": 0}, ("pixel_std", [2.0]), "with reconstruction_weight 0"),
    ("crosr", {"reconstruction_weight": 0}, ("decoder_channels", 8), "with reconstruction_weight 0"),
    ("confidence", {}, ("gan_epochs", 2), "with source gan"),
    ("confidence", {"source": "outliers"}, ("gan_batch_size", 8), "with source outliers"),
    ("confidence", {"source": "outliers"}, ("gan_width", 8), "with source outliers"),
    ("arpl", {}, ("beta", 0.5), "without confusing_samples"),
    ("arpl", {}, ("gan_learning_rate", 0.5), "without confusing_samples"),
    ("arpl", {"margin_weight": 0}, ("margin", 1.0), "with margin_weight 0"),
    ("gmvae", {"reconstruction": "bernoulli"}, ("pixel_scale", 0.2), "with reconstruction bernoulli"),
    ("proser", {"mixed_weight": 0}, ("mix_alpha", 2.0), "with mixed_weight 0"),
    ("vae_contrastive", {"kl_weight": 0}, ("kl_warmup", 0.25), "with kl_weight 0"),
    ("vae_contrastive", {"kl_weight": 0}, ("instance_kl_weight", 2.0), "with kl_weight 0"),
    ("vae_contrastive", {"contrastive_weight": 0}, ("temperature", 2.5), "with contrastive_weight 0"),
    ("vae_contrastive", {"contrastive_weight": 0}, ("counterfactuals", 1), "with contrastive_weight 0"),
    ("supcon", {"mix": "none"}, ("gamma", [0.2, 0.3]), "with mix none"),
    ("supcon", {"mix": "none"}, ("mixed_views", 1), "with mix none"),
    ("supcon", {"mix": "cutmix"}, ("saliency", "gradcam"), "with mix cutmix"),
    ("supcon", {"mix": "mixup", "mix_alpha": 1.0}, ("gamma", [0.2, 0.3]), "with mix_alpha"),
    ("supcon", {"simclr_weight": 0}, ("mix", "cutmix"), "with simclr_weight 0"),
    ("supcon", {"augment": False, "flip": False}, ("flip", True), "without augment"),
    ("moco", {}, ("saliency_layers", [1]), "with mix none"),
]  # fmt: skip
SIZES = {"decoder_channels", "gan_width"}  # of parts that are made, and draw their weights, all the same
NAMES = [f"{name}-{setting}-{why}" for name, _, (setting, _), why in IDLE]


def plan(name: str, settings: dict[str, Any], protocol: str = "digits", preset: str | None = None) -> Any:
    request = RetrainRequest(objective=name, objective_config=settings, preset=preset)
    return plan_objective(request, make_protocol(protocol), "retrain").settings


def losses(name: str, settings: dict[str, Any]) -> dict[str, Tensor]:
    """The terms of one step."""
    config = resolve_objective_config(name, settings, make_protocol("digits"), "retrain")
    torch.manual_seed(0)
    encoder = Pyramid()
    objective = make_objective(name, feature_shapes(encoder, IMAGE), IMAGE, 3, config)
    learner = Learner(encoder, objective)
    torch.manual_seed(1)
    if name == "confidence" and config.source == "outliers":
        objective.set_outliers(torch.randint(0, 255, (8, *IMAGE), dtype=torch.uint8))
    return objective.losses(learner.encoder, images_and_labels(), progress=0.4)


@pytest.mark.parametrize(("name", "settings", "more", "why"), IDLE, ids=NAMES)
def test_it_is_refused_in_a_line(name: str, settings: dict[str, Any], more: tuple[str, Any], why: str) -> None:
    assert plan(name, settings)
    with pytest.raises(UserError, match=f"^objective {name}: {more[0]} does nothing {why}: leave it out$"):
        plan(name, {**settings, more[0]: more[1]})


@pytest.mark.parametrize(("name", "settings", "more", "why"), IDLE, ids=NAMES)
def test_it_does_nothing_indeed(name: str, settings: dict[str, Any], more: tuple[str, Any], why: str) -> None:
    assert why
    if more[0] in SIZES:
        return
    usual, found = losses(name, settings), losses(name, {**settings, more[0]: more[1]})
    assert usual.keys() == found.keys()
    for term in usual:
        torch.testing.assert_close(found[term], usual[term], rtol=1e-5, atol=0)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_a_run_records_can_be_asked_for_again(name: str, protocol: str) -> None:
    """Whatever protocols and presets say of settings that nothing reads."""
    kind = objective_class(name)
    for preset in ("paper", "small", "tiny"):
        for settings in ({}, {"side_task": "rotpred"}):
            made = plan(name, settings, protocol, preset)
            recorded = plain({item.name: getattr(made, item.name) for item in fields(made)}, "config")
            assert plan(name, recorded, protocol, preset) == made
            assert made.idle.keys() <= {item.name for item in fields(kind.config_class)}


def test_a_preset_may_set_what_is_idle() -> None:
    assert plan("arpl", {}, preset="tiny").gan_width == 16
    assert plan("arpl", {"gan_width": 16}, preset="tiny").gan_width == 16
    with pytest.raises(UserError, match="gan_width does nothing without confusing_samples"):
        plan("arpl", {"gan_width": 16}, preset="small")
    assert plan("arpl", {"gan_width": 16, "confusing_samples": True}, preset="small").gan_width == 16


def test_a_variant_is_no_other_value() -> None:
    """What is left out has the value of the variant that is asked for."""
    asked = {"variant": "paper", "kl_weight": 0, "instance_kl_weight": 3.0}
    assert plan("vae_contrastive", asked, "cifar10").instance_kl_weight == 3.0


def test_a_config_alone_may_hold_anything() -> None:
    """An old run opens again: it is refused where a training is planned."""
    assert replace(ObjectiveConfig(), side_weight=2.0).idle == {"side_weight": "with side_task none"}
