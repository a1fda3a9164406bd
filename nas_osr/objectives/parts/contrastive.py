"""Contrastive losses on unit vectors: SupCon (Khosla et al. 2020), NT-Xent (SimCLR, Chen et al. 2020), InfoNCE (MoCo).

All are cross-entropies of similarities s / t, in float32 whatever the precision around them, by log-sum-exp.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def unit_vectors(features: Tensor) -> Tensor:
    """Features [M, D] scaled to length 1, float32; zeros stay zeros and no size of theirs overflows."""
    features = features.float()
    largest = features.detach().abs().amax(dim=1, keepdim=True)
    return F.normalize(features / torch.where(largest > 0, largest, 1.0), dim=1)


def similarities(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """s / t of every row of [M, D] with every row of [K, D]: [M, K] float32, under autocast too."""
    with torch.autocast(first.device.type, enabled=False):
        return first.float() @ second.float().T / temperature


def supcon_loss(features: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """The mean over anchors i of -1/|P| sum_p log[exp(s_ip / t) / sum_{k != i} exp(s_ik / t)], a scalar.

    P holds the other rows with the label of i, k runs over all rows but i. (GradMix prints a sum over k of other
    classes, which is not what its code runs, and is infinite in a batch of one class.) A row without a positive is no
    anchor; without any anchor the loss is 0, with a gradient of 0.

    Args:
        features: [M, D] unit vectors, M at least 1.
        labels: [M] int64.
        temperature: t, greater than 0.
    """
    return soft_supcon_loss(features, (labels[:, None] == labels).float(), temperature)


def soft_supcon_loss(features: Tensor, affinities: Tensor, temperature: float) -> Tensor:
    """SupCon with soft positives (ConOSR's SupCon-ST): -sum_p a_ip log[exp(s_ip / t) / sum_{k != i} exp(s_ik / t)] /
    sum_p a_ip, the mean over anchors i, a scalar.

    p runs over all rows but i. A row that has nothing in common with any is no anchor.

    Args:
        features: [M, D] unit vectors, M at least 1.
        affinities: a, [M, M] float, from 0 to 1: how much two rows have in common; the diagonal is passed over.
        temperature: t, greater than 0.
    """
    scores = similarities(features, features, temperature)
    own = torch.eye(len(features), dtype=torch.bool, device=features.device)
    # the most negative number, not -inf: one row alone would make NaN of it
    others = scores.masked_fill(own, torch.finfo(scores.dtype).min)
    shares = affinities.masked_fill(own, 0.0)
    total = shares.sum(dim=1)
    anchors = total > 0
    per_anchor = others.logsumexp(dim=1) - (scores * shares).sum(dim=1) / torch.where(anchors, total, 1.0)
    return (per_anchor * anchors).sum() / anchors.sum().clamp_min(1)


def nt_xent_loss(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """NT-Xent: SupCon in which every image is a class of its own, with its two views [B, D] and [B, D]; a scalar."""
    images = torch.arange(len(first), device=first.device)
    return supcon_loss(torch.cat([first, second]), images.repeat(2), temperature)


def mixed_nt_xent_loss(clean: Tensor, mixed: Tensor, temperature: float) -> Tensor:
    """The mean over clean views i of the mean over p of -log[exp(s_ip / t) / sum_k exp(s_ik / t)], a scalar (GradMix).

    The anchor is a clean view, p the mixed views of its own image, and k runs over all mixed views; so with two of each
    image the loss is at least log 2.

    Args:
        clean: [2B, D] unit vectors, rows i and B + i from the same image.
        mixed: [2B, D] alike, or [B, D] of one mixed view of each image.
        temperature: t, greater than 0.
    """
    scores = similarities(clean, mixed, temperature)
    count = len(clean) // 2
    index = torch.arange(2 * count, device=clean.device)
    own = torch.stack([scores[index, index % count + start] for start in range(0, len(mixed), count)])
    return (scores.logsumexp(dim=1) - own.mean(dim=0)).mean()


def info_nce_loss(queries: Tensor, keys: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """The mean of -log[exp(q k / t) / (exp(q k / t) + sum_n exp(q n / t))] (He et al. 2020, eq. 1), a scalar.

    Queries and keys [B, D] are row by row of the same image, negatives [K, D] of others; all are unit vectors, t > 0.
    """
    with torch.autocast(queries.device.type, enabled=False):
        positive = (queries.float() * keys.float()).sum(dim=1, keepdim=True) / temperature
    scores = torch.cat([positive, similarities(queries, negatives, temperature)], dim=1)
    return (scores.logsumexp(dim=1) - scores[:, 0]).mean()
