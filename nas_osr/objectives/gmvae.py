"""Gaussian mixture VAE (Cao et al.): every class is a mixture of K_c Gaussians in the space of one latent z.

An image x gives z ~ q(z|x), and with its class y a second latent w ~ q(w|x,y). The prior net turns w into a mean and a
variance for every subcluster k of every class c. With one reparameterised sample of z and w, and j over the subclusters
of the image's own class,

    r_j  = softmax_j [log pi_j + log N(z; mu_yj(w), s_yj(w))]
    loss = -log p(x|z) + KL(q(w|x,y) || N(0, I)) + [log q(z|x) - sum_j r_j log N(z; mu_yj, s_yj)]

The paper's v-prior term sum_j r_j log(r_j / pi_j) is an option, off as in its experiments. pi is uniform. All terms are
in nats per image. The class is needed in training only: inference reads the mean of z.

The encoder never sees y, and what the loss earns by telling classes apart is at most log N nats beside 50 to 90 of
covering, so classes form slowly. Two options that are not the paper's help: `covering_warmup`, and `class_weight`, the
weight of the cross-entropy of the class posterior under the prior (so do CGDL and MGPL), with one draw w ~ N(0, I):

    p(c|z) = softmax_c [log sum_k pi_ck N(z; mu_ck(w), s_ck(w))]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_osr.configuration import check_choice
from nas_osr.data.protocols import Protocol
from nas_osr.errors import UserError
from nas_osr.objectives.base import Batch, Objective, Terms
from nas_osr.objectives.parts.decoder import BOTTOM, DECODER_CHANNELS, Decoder
from nas_osr.objectives.parts.densities import (
    bernoulli_loss,
    gaussian_log_density,
    log_responsibilities,
    standard_normal_divergence,
    truncated_gaussian_loss,
)
from nas_osr.objectives.parts.side_tasks import ObjectiveConfig
from nas_osr.objectives.vae_contrastive import risen, weighted
from nas_osr.option_docs import NOT_NEGATIVE, POSITIVE, SHARE
from nas_osr.outputs import Features, FeatureShapes, Outputs

VARIANCE_FLOOR = 1e-4  # of posteriors and priors: densities stay finite, and no term can pay without end
LATENT_LIMIT = 1e8  # a larger z is decoded as this: squares in the decoder's BatchNorm stay finite in float32
SCALE_RANGE = (0.01, 0.5)  # of the learned pixel scale; a uniform pixel has .29
RECONSTRUCTIONS = ("bernoulli", "truncated_gaussian")


@dataclass(frozen=True)
class GMVAEConfig(ObjectiveConfig):
    """Sizes and terms of the loss."""

    latent_dim: Annotated[int, POSITIVE] = 10
    "dimensions of z."
    prior_dim: Annotated[int, POSITIVE] = 10
    "dimensions of w."
    hidden: Annotated[int, POSITIVE] = 64
    "width of the hidden layer of q(w|x,y) and of the prior net."
    subclusters: Annotated[int | tuple[int, ...] | None, POSITIVE] = None
    """K_c, one number for all classes or one per class; when not given, as many as a class has merged ones.
    `nas-osr subclusters` recommends them."""
    reconstruction: str = "bernoulli"
    "`bernoulli` or `truncated_gaussian`."
    pixel_scale: Annotated[float, NOT_NEGATIVE] = 0.0
    """standard deviation s of a pixel in the truncated Gaussian, in units of [0, 1]. 0 learns one for all pixels,
    between 0.01 and 0.5: s weighs the reconstruction against the other terms, and its best value depends on the data.
    The bounds keep it from collapsing on images that are reconstructed exactly, and from growing where a truncated
    Gaussian is flat and nothing would bring it back."""
    v_prior: bool = False
    "add the divergence of r from pi."
    covering_warmup: Annotated[float, SHARE] = 0.0
    "share of the training over which the weight of the covering term rises from 0 to 1; 0 is none, as in the paper."
    class_weight: Annotated[float, NOT_NEGATIVE] = 0.0
    "weight of the cross-entropy of the class posterior under the prior; 0, as in the paper, leaves it out."
    decoder_channels: Annotated[int, DECODER_CHANNELS] = 0
    "channels of the decoder at 1/16 resolution, halved at each finer scale; 0 is as many as the encoder has there."

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "reconstruction", RECONSTRUCTIONS, where="gmvae: ")
        if self.subclusters == ():
            raise UserError("gmvae: subclusters must be a whole number from 1, or one for each class, got none")

    @property
    def idle(self) -> dict[str, str]:
        grey = self.reconstruction == "bernoulli"
        return {**super().idle, **({"pixel_scale": "with reconstruction bernoulli"} if grey else {})}

    def counts(self, num_classes: int) -> tuple[int, ...]:
        """K_c of every class. Raises UserError when they are listed for another number of classes."""
        if not isinstance(self.subclusters, tuple):
            return (self.subclusters or 1,) * num_classes
        if len(self.subclusters) != num_classes:
            raise UserError(f"gmvae: subclusters lists {len(self.subclusters)} classes, there are {num_classes}")
        return self.subclusters


class GMVAE(Objective):
    """The GMVAE loss with its encoders' heads, prior net and decoder.

    Attributes:
        components: [N, K] int64, where the prior net has the subclusters of each class, K the largest K_c.
        log_weights: [N, K] float32 log pi; -inf where a class has fewer than K subclusters.
    """

    name = "gmvae"
    config_class = GMVAEConfig
    provides = frozenset({"embedding", "latent_mean", "latent_variance"})
    default_rule = "nc_distance"
    divisible = True
    capturable = True
    config: GMVAEConfig
    components: Tensor
    log_weights: Tensor

    def build(self, shapes: FeatureShapes) -> None:
        config = self.config
        counts = config.counts(self.num_classes)
        channels, height, width = shapes.branches[BOTTOM]
        flat = channels * height * width
        self.to_latent = nn.Linear(flat, 2 * config.latent_dim)
        self.to_prior_input = nn.Sequential(
            nn.Linear(flat + self.num_classes, config.hidden), nn.Tanh(), nn.Linear(config.hidden, 2 * config.prior_dim)
        )
        to_moments = nn.Linear(config.hidden, sum(counts) * 2 * config.latent_dim)
        with torch.no_grad():  # subclusters that start together share every image for good
            to_moments.bias.view(-1, 2, config.latent_dim)[:, 0].normal_()
        self.prior = nn.Sequential(nn.Linear(config.prior_dim, config.hidden), nn.Tanh(), to_moments)
        self.decoder = Decoder(config.latent_dim, config.decoder_channels or channels, self.image_shape, {})
        self.raw_scale: nn.Parameter | None = None
        if config.reconstruction == "truncated_gaussian" and config.pixel_scale == 0:
            self.raw_scale = nn.Parameter(torch.zeros(()))

        components = torch.zeros(self.num_classes, max(counts), dtype=torch.int64)
        log_weights = torch.full(components.shape, -torch.inf)
        first = 0
        for label, count in enumerate(counts):
            components[label, :count] = torch.arange(first, first + count)
            log_weights[label, :count] = -torch.tensor(float(count)).log()
            first += count
        self.register_buffer("components", components, persistent=False)
        self.register_buffer("log_weights", log_weights, persistent=False)

    @classmethod
    def select_classes(cls, config: GMVAEConfig, labels: Sequence[int], num_classes: int) -> GMVAEConfig:
        """Subclusters of these classes alone. Raises UserError when they do not fit the classes."""
        given = config.counts(num_classes)
        return replace(config, subclusters=tuple(given[label] for label in labels))

    @classmethod
    def defaults(cls, protocol: Protocol, phase: str) -> dict[str, Any]:
        """The reconstruction term by colour, and K_c and the dimensions of z in the paper's four experiments."""
        grey = protocol.image_shape[0] == 1
        merged = any(len(group) > 1 for group in protocol.known)
        return {
            "reconstruction": "bernoulli" if grey else "truncated_gaussian",
            "subclusters": tuple(len(group) for group in protocol.known) if merged else None,
            "latent_dim": {(True, False): 10, (False, False): 50, (True, True): 5, (False, True): 20}[grey, merged],
        }

    @classmethod
    def follows(cls, config: GMVAEConfig) -> bool:
        """Whether covering has a warm-up."""
        return config.covering_warmup > 0

    @property
    def loss_scale(self) -> float:
        """The number of pixel values: the reconstruction is a sum over them."""
        channels, height, width = self.image_shape
        return float(channels * height * width)

    def encode(self, features: Features) -> tuple[Tensor, Tensor]:
        """Mean and variance of q(z|x), each [B, latent_dim]; variances are positive."""
        return split_moments(self.to_latent(self.flatten(features)))

    def encode_prior_input(self, features: Features, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of q(w|x,y), each [B, prior_dim]; labels: [B] int64 in 0..N-1."""
        flat = self.flatten(features)
        classes = F.one_hot(labels, self.num_classes).to(flat)
        return split_moments(self.to_prior_input(torch.cat([flat, classes], dim=1)))

    def flatten(self, features: Features) -> Tensor:
        """The 1/16 map as [B, F] in the precision of the heads, whatever the encoder's."""
        return features.branches[BOTTOM].flatten(1).to(self.to_latent.weight.dtype)

    def every_prior(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Means and variances of all subclusters of all classes, each [B, sum of K_c, latent_dim], from w."""
        return split_moments(self.prior(w).view(len(w), -1, 2 * self.config.latent_dim))

    def subcluster_priors(self, w: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Means and variances of the subclusters of each image's class, each [B, K, latent_dim], from w [B, prior_dim].

        Where the class has fewer than K, the rest repeats some other subcluster. labels: [B] int64 in 0..N-1.
        """
        index = self.components[labels][:, :, None].expand(-1, -1, self.config.latent_dim)
        mean, variance = self.every_prior(w)
        return mean.gather(1, index), variance.gather(1, index)

    def class_log_densities(self, z: Tensor, w: Tensor) -> Tensor:
        """log p(z|c, w) of every class, [B, N], from z [B, latent_dim] and w [B, prior_dim]."""
        densities = gaussian_log_density(z[:, None, :], *self.every_prior(w))
        return (densities[:, self.components] + self.log_weights).logsumexp(2)

    def pixel_scale(self) -> Tensor | float:
        """s of the truncated Gaussian."""
        low, high = SCALE_RANGE
        return self.config.pixel_scale if self.raw_scale is None else low + (high - low) * self.raw_scale.sigmoid()

    def sample(self, mean: Tensor, variance: Tensor) -> Tensor:
        """A reparameterised draw from N(mean, diag variance), [B, D] each."""
        noise = self.draw(lambda count: mean.new_empty(count, mean.shape[1]).normal_(), len(mean))
        return mean + variance.sqrt() * noise

    def forward(self, encoder: nn.Module, images: Tensor) -> Outputs:
        features = encoder(images)
        with torch.autocast(images.device.type, enabled=False):
            mean, variance = self.encode(features)
        return Outputs(embedding=mean, latent_mean=mean, latent_variance=variance)

    def losses(self, encoder: nn.Module, batch: Batch, player: str = "main", progress: float | Tensor = 1.0) -> Terms:
        """Terms `reconstruction`, `kl_w`, `covering` and, where they are on, `v_prior` and `class`; see the formula."""
        images, labels = batch
        features = encoder(images)
        with torch.autocast(images.device.type, enabled=False):  # differences of densities need more than bf16
            z_mean, z_variance = self.encode(features)
            w_mean, w_variance = self.encode_prior_input(features, labels)
            z, w = self.sample(z_mean, z_variance), self.sample(w_mean, w_variance)

            log_weights = self.log_weights[labels]
            log_densities = gaussian_log_density(z[:, None, :], *self.subcluster_priors(w, labels))
            log_r = log_responsibilities(log_weights, log_densities)
            own = (log_r.exp() * log_densities).sum(1)
            terms = {
                "kl_w": standard_normal_divergence(w_mean, w_variance).mean(),
                "covering": (gaussian_log_density(z, z_mean, z_variance) - own).mean(),
            }
            if self.config.covering_warmup > 0:
                terms["covering"] = weighted(risen(progress, self.config.covering_warmup), terms["covering"])
            if self.config.v_prior:
                # masked before the product, so that missing subclusters send back no NaN
                ratio = torch.where(log_weights.isfinite(), log_r - log_weights, 0.0)
                terms["v_prior"] = (log_r.exp() * ratio).sum(1).mean()
            if self.config.class_weight > 0:
                free = self.sample(torch.zeros_like(w_mean), torch.ones_like(w_variance))
                posterior = F.cross_entropy(self.class_log_densities(z, free), labels)
                terms["class"] = self.config.class_weight * posterior
        decoded = self.decoder.logits(z.clamp(-LATENT_LIMIT, LATENT_LIMIT), {}).to(images.dtype)
        if self.config.reconstruction == "bernoulli":
            reconstruction = bernoulli_loss(decoded, images)
        else:
            reconstruction = truncated_gaussian_loss(decoded.sigmoid(), self.pixel_scale(), images)
        return {**terms, "reconstruction": reconstruction.mean()}


def split_moments(raw: Tensor) -> tuple[Tensor, Tensor]:
    """A layer's output [..., 2 D] as mean and positive variance, each [..., D]."""
    mean, variance = raw.chunk(2, dim=-1)
    return mean, F.softplus(variance) + VARIANCE_FLOOR
