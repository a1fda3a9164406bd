"""Classification-reconstruction: the decoder against the formula written out, gradients, shapes and refusals."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nas_osr.errors import UserError
from nas_osr.objectives import resolve_objective_config
from nas_osr.objectives.crosr import CROSR, CROSRConfig
from nas_osr.outputs import Features, FeatureShapes
from nas_osr.scoring import rules_for

SHAPES = FeatureShapes({2: (6, 2, 2)}, {-1: (4, 16, 16), 0: (8, 8, 8), 2: (6, 2, 2)})


class Encoder(nn.Module):
    """Three maps of the shapes above, the last of them the branch's."""

    def __init__(self):
        super().__init__()
        self.steps = nn.ModuleList([nn.Conv2d(3, 4, 2, 2), nn.Conv2d(4, 8, 2, 2), nn.Conv2d(8, 6, 4, 4)])

    def forward(self, images):
        maps = [images]
        for step in self.steps:
            maps.append(step(maps[-1]))
        return Features({2: maps[3]}, {-1: maps[1], 0: maps[2], 2: maps[3]})


def make(seed=0, **settings):
    torch.manual_seed(seed)
    encoder = Encoder()
    objective = CROSR(SHAPES, (3, 32, 32), 5, CROSRConfig(**settings))
    images, labels = torch.rand(7, 3, 32, 32), torch.tensor([0, 1, 2, 3, 4, 0, 1])
    return encoder, objective, images, labels


def test_losses_are_the_formula_written_out():
    encoder, objective, images, labels = make(
        latent_channels=3, decoder_channels=5, reconstruction_weight=2.0, pixel_std=(0.2, 0.25, 0.5)
    )
    maps = encoder(images).intermediate
    weights = dict(objective.named_parameters())
    x = 0.0
    for level, (scale, side) in enumerate([(2, 2), (0, 8), (-1, 16)]):
        w = weights[f"to_latent.{level}.0.weight"][:, :, 0, 0]
        latent = torch.einsum("oc,bchw->bohw", w, maps[scale]) + weights[f"to_latent.{level}.0.bias"].view(1, -1, 1, 1)
        latent = latent.clamp_min(0)
        assert latent.shape[1] == 3
        w = weights[f"from_latent.{level}.weight"][:, :, 0, 0]
        joined = torch.einsum("oc,bchw->bohw", w, latent) + weights[f"from_latent.{level}.bias"].view(1, -1, 1, 1)
        if level:
            factor = side // x.shape[2]
            joined = joined + x.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
        convolved = F.conv2d(joined, weights[f"refine.{level}.0.weight"], padding=1)
        mean = convolved.mean((0, 2, 3), keepdim=True)
        x = (convolved - mean) / (convolved.var((0, 2, 3), keepdim=True, unbiased=False) + 1e-5).sqrt()
        x = torch.where(x > 0, x, 0.2 * x)
    x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    image = 1 / (1 + torch.exp(-F.conv2d(x, weights["to_image.weight"], weights["to_image.bias"], padding=1)))
    std = torch.tensor([0.2, 0.25, 0.5]).view(1, 3, 1, 1)
    error = (((image - images) / std) ** 2).mean()
    logits = maps[2].mean((2, 3)) @ weights["classifier.weight"].T + weights["classifier.bias"]
    terms = objective.losses(encoder, (images, labels))
    torch.testing.assert_close(terms["reconstruction"], 2.0 * error, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(terms["ce"], -logits.log_softmax(1)[range(7), labels].mean())
    assert set(terms) == {"ce", "reconstruction"}


def test_latents_are_averaged_over_positions():
    encoder, objective, images, _ = make(latent_channels=5)
    objective.eval()
    outputs = objective(encoder, images)
    assert outputs.available() == set(objective.provides)
    maps = encoder(images).intermediate
    expected = [
        lateral(maps[scale]).flatten(2).mean(2) for scale, lateral in zip((2, 0, -1), objective.to_latent, strict=True)
    ]
    assert [part.shape[1] for part in expected] == [5, 5, 4]  # never wider than the map
    torch.testing.assert_close(outputs.embedding, torch.cat(expected, dim=1))


def test_every_part_learns_and_the_image_passes_through_the_latents_alone():
    encoder, objective, images, labels = make()
    terms = objective.losses(encoder, (images, labels))
    terms["reconstruction"].backward()
    for name, parameter in [*encoder.named_parameters(), *objective.named_parameters()]:
        used = not name.startswith("classifier")
        assert (parameter.grad is not None and bool(parameter.grad.any())) == used, name
    latents = [torch.zeros_like(latent) for latent in objective.latents(encoder(images))]
    objective.eval()
    decoded = objective.decode(latents)
    assert decoded.shape == images.shape and torch.equal(decoded[0], decoded[1])
    assert (decoded > 0).all() and (decoded < 1).all()


def test_a_reconstruction_can_be_learned():
    encoder, objective, images, labels = make(pixel_std=(0.3, 0.3, 0.3))
    images = F.interpolate(images[:, :, :4, :4], size=(32, 32))
    optimizer = torch.optim.Adam([*encoder.parameters(), *objective.parameters()], lr=1e-2)
    first = None
    for _ in range(120):
        terms = objective.losses(encoder, (images, labels))
        first = first if first is not None else terms["reconstruction"].item()
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
    assert terms["reconstruction"].item() < 0.3 * first


def test_without_weight_nothing_is_decoded():
    encoder, objective, images, labels = make(reconstruction_weight=0.0)
    objective.decode = None  # would raise
    assert set(objective.losses(encoder, (images, labels))) == {"ce"}


def test_bfloat16_autocast_gives_float32_terms():
    encoder, objective, images, labels = make()
    plain = objective.losses(encoder, (images, labels))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = objective.losses(encoder, (images, labels))
        outputs = objective(encoder, images)
    for name, value in terms.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, plain[name], rtol=0.05, atol=0.05)
    assert outputs.logits.dtype == outputs.embedding.dtype == torch.float32


def test_nearest_centroid_rules_take_its_latents():
    assert {"crosr", "nc_distance", "nc_uncertainty", "neighbours", "openmax", "mls"} <= set(rules_for(CROSR))
    assert "cap" not in rules_for(CROSR)


def test_defaults_measure_errors_in_the_protocols_deviations(digits_protocol):
    config = resolve_objective_config("crosr", {}, digits_protocol, "retrain")
    assert config.pixel_std == digits_protocol.std


@pytest.fixture
def digits_protocol():
    from nas_osr.data.protocols import make_protocol

    return make_protocol("digits", 0)


@pytest.mark.parametrize("settings", [{"reconstruction_weight": -1.0}, {"latent_channels": 0}, {"decoder_channels": 0}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(UserError, match=f"{next(iter(settings))} must"):
        CROSRConfig(**settings)


def test_an_encoder_without_intermediate_maps_is_refused():
    with pytest.raises(UserError, match="no intermediate maps"):
        CROSR(FeatureShapes({2: (6, 2, 2)}, {}), (3, 32, 32), 5, CROSRConfig())
