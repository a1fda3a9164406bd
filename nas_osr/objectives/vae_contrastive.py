"""VAE contrastive learning (NAS-OSR): a class attribute u, an instance attribute z, and counterfactual reconstructions.

u is pulled to a learned mean h_y of its class and classified; z to a standard normal. The decoder turns (u, z) into an
image. The contrastive term asks that an image be reconstructed best under its own class: cross-entropy over all classes
j of -T * MSE(x, Dec(h_j, z)). Both errors are in normalised pixel units, ((x - x^) / channel std)^2. Images are judged
by Dec(mu_j, z), mu_j the mean of u over the training images of class j, once a rule has told it (`take_class_means`).

At the weight 1 that the paper prints for the reconstruction, a mean over pixels, a nat of z costs more than it saves:
the decoder draws the mean image, and neither the contrastive term nor CAP's first stage sees anything. So the weight is
larger here, and z, which the paper prices above u, is cheaper: otherwise u holds the image, and its densities say how
simple one is. `variant` paper has the paper's weights.

Its cost grows with the N classes. `counterfactuals` = m decodes the own class and m of the other N - 1, drawn anew for
each image without replacement, and estimates the term

    L = log(1 + sum over j != y of exp(T (e_y - e_j)))   by   L^ = log(1 + (N - 1)/m sum over the drawn j of the same).

What is inside the logarithm is unbiased, so that the mean of exp L^ is exp L. L^ itself is not: L - Var(exp L^)/2 <=
mean of L^ <= L, and L^ = L at m = N - 1. With fewer terms no estimate is unbiased: its mean would be a sum of functions
of m terms each, whose derivative by all N - 1 at once is zero, and that of L is not. (In training, the batch statistics
of the decoder are those of the images that are decoded.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_osr.configuration import check_choice
from nas_osr.data.protocols import Protocol
from nas_osr.errors import UserError
from nas_osr.objectives.base import Batch, Objective, Terms
from nas_osr.objectives.parts.decoder import BOTTOM, DECODER_CHANNELS, Decoder
from nas_osr.objectives.parts.side_tasks import ObjectiveConfig
from nas_osr.option_docs import NOT_NEGATIVE, POSITIVE, SHARE
from nas_osr.outputs import Features, FeatureShapes, Outputs

RECONSTRUCTION = {"working": 200.0, "paper": 1.0}  # where nothing is given, as in runs of earlier versions
# of the working variant: weights at which the decoder's error is under half the mean image's, chosen by rehearsals
WORKING_WEIGHT = 50.0
WORKING_WEIGHTS = {"cifar10": 20.0, "cifar100": 20.0}  # by source; photographs come in more steps
WORKING_INSTANCE_KL = 0.1


@dataclass(frozen=True)
class VAEContrastiveConfig(ObjectiveConfig):
    """Coefficients of the loss (NAS-OSR, section on VAE contrastive learning)."""

    class_dim: Annotated[int, POSITIVE] = 32
    "dimensions of u."
    instance_dim: Annotated[int, POSITIVE] = 10
    "dimensions of z."
    ce_weight: Annotated[float, NOT_NEGATIVE] = 30.0
    "weight of the cross-entropy of the classifier on u."
    kl_weight: Annotated[float, NOT_NEGATIVE] = 1.0
    "weight beta of both divergences at the end of their linear warm-up."
    kl_warmup: Annotated[float, SHARE] = 0.5
    "share of the training over which beta rises from 0; 0 is no warm-up."
    instance_kl_weight: Annotated[float, NOT_NEGATIVE] = 1.0
    "weight beta_z of z's divergence inside beta's bracket; when not given, that of the variant: .1, or the paper's."
    variant: str = "working"
    "working: a decoder that draws the images; paper: the printed weight of the reconstruction, at which it does not."
    reconstruction_weight: Annotated[float | None, NOT_NEGATIVE] = None
    "weight of the mean squared error; when not given, that of the variant: 50 (CIFAR: 20), or the paper's 1."
    contrastive_weight: Annotated[float, NOT_NEGATIVE] = 1.0
    "weight of the contrastive term; at 0 no counterfactual is decoded in training."
    temperature: Annotated[float, POSITIVE] = 1.0
    "T of the contrastive term."
    counterfactuals: Annotated[int, NOT_NEGATIVE] = 0
    """how many other classes each image is decoded under in training, a fresh random sample; 0 is all, as in the paper.
    Fewer make the contrastive term a little too small on average, and training cheaper where there are many classes.
    Judging decodes every class in any case."""
    pixel_std: Annotated[tuple[float, ...] | None, POSITIVE] = None
    "standard deviation of each channel, in which errors are measured; the protocol's when not given."
    decoder_channels: Annotated[int, DECODER_CHANNELS] = 0
    """channels of the decoder at 1/16 resolution, halved at each finer scale; 0 is as many as the encoder has there, as
    in the paper. A narrow decoder makes the N + 1 reconstructions of each image cheap."""
    decoder_features: bool = False
    "let the decoder see the encoder's maps, as the published code does; the image then bypasses the latents."

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "variant", tuple(RECONSTRUCTION), where="vae_contrastive: ")

    @property
    def idle(self) -> dict[str, str]:
        found = super().idle
        if self.kl_weight == 0:
            found |= dict.fromkeys(("kl_warmup", "instance_kl_weight"), "with kl_weight 0")
        if self.contrastive_weight == 0:
            found |= dict.fromkeys(("temperature", "counterfactuals"), "with contrastive_weight 0")
        return found

    @property
    def image_weight(self) -> float:
        """The weight of the reconstruction."""
        given = self.reconstruction_weight
        return RECONSTRUCTION[self.variant] if given is None else given


class VAEContrastive(Objective):
    """The VAE contrastive loss with its latents, classifier, class means and decoder.

    Attributes:
        mean_attribute: [N, class_dim] mu, the mean of u over training images of each class.
        measured: [N] bool, whether it is known; h stands in where it is not.
    """

    name = "vae_contrastive"
    config_class = VAEContrastiveConfig
    provides = frozenset(
        {"logits", "embedding", "latent_mean", "latent_variance", "instance_mean", "class_reconstruction_error"}
    )
    default_rule = "cap"
    last_layer = "classifier"
    divisible = True
    capturable = True
    config: VAEContrastiveConfig

    def build(self, shapes: FeatureShapes) -> None:
        config = self.config
        if config.counterfactuals >= self.num_classes:
            raise UserError(
                f"vae_contrastive: counterfactuals must be under the number of classes, {self.num_classes}, "
                f"got {config.counterfactuals}; 0 takes all"
            )
        bottom = shapes.branches[BOTTOM]
        self.latent_dim = config.class_dim + config.instance_dim
        self.to_mean = nn.Linear(bottom[0] * bottom[1] * bottom[2], self.latent_dim)
        self.to_variance = nn.Linear(bottom[0] * bottom[1] * bottom[2], self.latent_dim)
        self.classifier = nn.Linear(config.class_dim, self.num_classes)
        self.class_mean = nn.Embedding(self.num_classes, config.class_dim)  # h: a linear map of the one-hot label
        joining = {scale: shape[0] for scale, shape in shapes.branches.items() if scale != BOTTOM}
        if config.decoder_features:
            joining |= {scale: shape[0] for scale, shape in shapes.intermediate.items()}
        self.decoder = Decoder(self.latent_dim, config.decoder_channels or bottom[0], self.image_shape, joining)
        self.inverse_std: Tensor
        scale = torch.tensor(config.pixel_std or (1.0,) * self.image_shape[0]).view(1, -1, 1, 1)
        self.register_buffer("inverse_std", 1.0 / scale, persistent=False)
        self.mean_attribute: Tensor
        self.measured: Tensor
        self.register_buffer("mean_attribute", torch.zeros(self.num_classes, config.class_dim))
        self.register_buffer("measured", torch.zeros(self.num_classes, dtype=torch.bool))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """States of earlier versions have no means of u."""
        for name in ("mean_attribute", "measured"):
            state_dict.setdefault(prefix + name, torch.zeros_like(getattr(self, name)))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @classmethod
    def defaults(cls, protocol: Protocol, phase: str) -> dict[str, Any]:
        """The paper's coefficients for a protocol, in the phase "search" or "retrain" (NAS-OSR, implementation)."""
        temperature = {"cifar10": 6.0, "cifar100": 6.0, "svhn": 2.0, "mnist": 10.0}.get(protocol.source, 1.0)
        common = {"temperature": temperature, "pixel_std": protocol.std}
        if phase == "search":
            return common
        usual = {"instance_kl_weight": 3.0, "contrastive_weight": 3.0}
        digits = {"ce_weight": 60.0, "instance_kl_weight": 1.0, "contrastive_weight": 1.0}
        weights = {"svhn": digits, "mnist": digits}.get(protocol.source, usual)
        return {**common, "kl_weight": 0.5, "kl_warmup": 1.0, **weights}

    @classmethod
    def complete(cls, settings: Mapping[str, Any], protocol: Protocol, phase: str) -> dict[str, Any]:
        """With the weights of the variant."""
        variant = {}
        if settings.get("variant", cls.config_class.variant) == "working":
            weight = WORKING_WEIGHTS.get(protocol.source, WORKING_WEIGHT)
            variant = {"reconstruction_weight": weight, "instance_kl_weight": WORKING_INSTANCE_KL}
        return {**cls.defaults(protocol, phase), **variant, **settings}

    @property
    def loss_scale(self) -> float:
        """The cross-entropy's weight, at least 1."""
        return max(self.config.ce_weight, 1.0)

    def encode(self, features: Features) -> tuple[Tensor, Tensor]:
        """Mean and variance of (u, z), each [B, class_dim + instance_dim] float32; variances are positive."""
        flat = features.branches[BOTTOM].flatten(1)
        return self.to_mean(flat).float(), F.softplus(self.to_variance(flat).float()) + 1e-6

    def decode(self, class_attribute: Tensor, instance_attribute: Tensor, features: Features) -> Tensor:
        """u [K*B, class_dim] and z [K*B, instance_dim] -> images [K*B, C, H, W] in [0, 1]."""
        maps = {**features.intermediate, **features.branches}
        return self.decoder(torch.cat([class_attribute, instance_attribute], dim=1), maps)

    def pixel_error(self, reconstruction: Tensor, images: Tensor) -> Tensor:
        """[K*B, C, H, W] against [B, C, H, W] -> mean squared error in normalised units, [K, B]."""
        difference = (reconstruction.float().view(-1, *images.shape) - images.float()) * self.inverse_std
        return difference.square().mean(dim=(2, 3, 4))

    def take_class_means(self, means: Tensor, measured: Tensor) -> None:
        """Judge images by these means of u from now on; [N, class_dim], and [N] whether there is one."""
        self.mean_attribute.copy_(means)
        self.measured.copy_(measured)

    def counterfactuals(self, instance_attribute: Tensor, features: Features) -> Tensor:
        """z [B, instance_dim] under each class, Dec(mu_j, z): images [N*B, C, H, W] in [0, 1], class by class."""
        means = torch.where(self.measured[:, None], self.mean_attribute, self.class_mean.weight)
        repeated = means.repeat_interleave(instance_attribute.shape[0], dim=0)
        return self.decode(repeated, instance_attribute.repeat(self.num_classes, 1), features)

    def posterior_means(self, features: Features) -> tuple[Tensor, Tensor, Tensor]:
        """The means of u [B, class_dim] and z [B, instance_dim], and the variances of both [B, D]."""
        mean, variance = self.encode(features)
        u, z = mean.split([self.config.class_dim, self.config.instance_dim], dim=1)
        return u, z, variance

    def reconstruct(self, encoder: nn.Module, images: Tensor) -> Tensor:
        features = encoder(images)
        u, z, _ = self.posterior_means(features)
        return self.decode(u, z, features).float()

    def redraw(self, encoder: nn.Module, images: Tensor) -> Tensor:
        """The counterfactual images Dec(mu_j, z) of images [B, C, H, W]: [N, B, C, H, W] float32 in [0, 1]."""
        features = encoder(images)
        _, z, _ = self.posterior_means(features)
        return self.counterfactuals(z, features).float().view(self.num_classes, *images.shape)

    def forward(self, encoder: nn.Module, images: Tensor) -> Outputs:
        """Inference at the posterior means. images: [B, C, H, W] in [0, 1]."""
        features = encoder(images)
        u, z, variance = self.posterior_means(features)
        return Outputs(
            logits=self.classifier(u).float(),
            embedding=u,
            latent_mean=u,
            latent_variance=variance[:, : self.config.class_dim],
            instance_mean=z,
            class_reconstruction_error=self.pixel_error(self.counterfactuals(z, features), images).T,
        )

    def losses(self, encoder: nn.Module, batch: Batch, player: str = "main", progress: float | Tensor = 1.0) -> Terms:
        """Terms `ce`, `kl_class`, `kl_instance`, `reconstruction`, `contrastive`, weighted (REFERENCE: eq. 3)."""
        images, labels = batch
        config = self.config
        features = encoder(images)
        mean, variance = self.encode(features)
        noise = self.draw(lambda count: mean.new_empty(count, mean.shape[1]).normal_(), len(mean))
        sample = mean + variance.sqrt() * noise
        u, z = sample.split([config.class_dim, config.instance_dim], dim=1)
        beta = config.kl_weight * risen(progress, config.kl_warmup)

        target = torch.cat([self.class_mean(labels).float(), torch.zeros_like(z)], dim=1)
        divergence = 0.5 * (variance + (mean - target).square() - 1.0 - variance.log())
        terms = {
            "ce": config.ce_weight * F.cross_entropy(self.classifier(u).float(), labels),
            "kl_class": weighted(beta, divergence[:, : config.class_dim].sum(1).mean()),
            "kl_instance": weighted(beta * config.instance_kl_weight, divergence[:, config.class_dim :].sum(1).mean()),
        }
        # one pass of the decoder for the image's own reconstruction and every counterfactual
        classes = self.counterfactual_classes(labels)
        class_attributes = torch.cat([u, self.class_mean(classes.flatten())])
        decoded = self.decode(class_attributes, z.repeat(len(classes) + 1, 1), features)
        errors = self.pixel_error(decoded, images)
        terms["reconstruction"] = config.image_weight * errors[0].mean()
        if len(classes):
            terms["contrastive"] = config.contrastive_weight * self.contrast(errors[1:], labels)
        return terms

    def counterfactual_classes(self, labels: Tensor) -> Tensor:
        """Under which classes each image is decoded, [K, B]; labels: [B].

        All in their order, or none where the term has no weight. With a sample, the first is the image's own, and the
        others, all different, come from torch's global generator.
        """
        if self.config.contrastive_weight == 0:
            return labels.new_empty(0, len(labels))
        if not self.config.counterfactuals:
            return torch.arange(self.num_classes, device=labels.device)[:, None].expand(-1, len(labels))
        order = torch.rand(len(labels), self.num_classes, device=labels.device)
        order.scatter_(1, labels[:, None], -1.0)  # the own class comes first
        return order.topk(self.config.counterfactuals + 1, largest=False).indices.T

    def contrast(self, errors: Tensor, labels: Tensor) -> Tensor:
        """The contrastive term without its weight, a scalar, of errors [K, B] under `counterfactual_classes`."""
        logits = -self.config.temperature * errors.T
        sampled = self.config.counterfactuals
        if not sampled:
            return F.cross_entropy(logits, labels)
        # each drawn class stands for (N - 1)/m others
        others = logits[:, 1:] + math.log((self.num_classes - 1) / sampled)
        return F.cross_entropy(torch.cat([logits[:, :1], others], dim=1), torch.zeros_like(labels))


def risen(progress: float | Tensor, share: float) -> float | Tensor:
    """How far a coefficient has risen, in [0, 1]: linearly over the first `share` of the training; 0 is at once.

    In a captured step both are scalars on the device.
    """
    if not share:
        return 1.0
    ratio = progress / share
    return ratio.clamp(max=1.0) if isinstance(ratio, Tensor) else min(1.0, ratio)


def weighted(coefficient: float | Tensor, term: Tensor) -> Tensor:
    """coefficient * term, in the term's type."""
    return (coefficient.to(term.dtype) if isinstance(coefficient, Tensor) else coefficient) * term
