"""Temporal weighting and affinity propagation: a CAM spreads to neighbours that grow alike (METHOD section 5)."""

import torch
from einops import einsum, rearrange
from torch import Tensor
from torch.nn import functional as F

from cluemap.params import AffinityParams, TemporalParams

SHIFTS = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1) if (row, column) != (0, 0)]


def temporal_weights(attention: Tensor, valid: Tensor, kind: str, sharpness: float) -> Tensor:
    """b k t, b t -> b k t: weight of each date for each class; 0 where not valid, sums to 1 over valid dates.

    `power`: attention ** sharpness (1 = the paper's normalised attention, 0 = plain mean). `softmax`: of the attention.
    """
    seen = valid[:, None]
    if kind == "softmax":
        return attention.masked_fill(~seen, -torch.inf).softmax(dim=-1)
    scores = sharpness * attention.clamp_min(1e-12).log()
    return scores.masked_fill(~seen, -torch.inf).softmax(dim=-1)


def weighted_sequence(sequence: Tensor, weights: Tensor) -> Tensor:
    """b n t d, b k t -> b k n d: date tokens averaged with each class's weights (eq. 11)."""
    return einsum(sequence, weights.to(sequence.dtype), "b n t d, b k t -> b k n d").float()


def neighbours(x: Tensor, dilation: int) -> list[Tensor]:
    """b d h w -> of each of the 8 neighbours at `dilation` positions its values b d h w, border replicated; views."""
    height, width = x.shape[-2:]
    padded = F.pad(x, [dilation] * 4, mode="replicate")
    corners = [(dilation * (1 + row), dilation * (1 + column)) for row, column in SHIFTS]
    return [padded[..., top : top + height, left : left + width] for top, left in corners]


def affinity(features: Tensor, dilation: int, temperature: float) -> Tensor:
    """b d h w -> b j h w: how much each position listens to its 8 neighbours j; sums to 1 over j (eq. 12)."""
    near = neighbours(features, dilation)
    length = torch.linalg.vector_norm(features, dim=1, keepdim=True).clamp_min(1e-8)  # b 1 h w
    along = torch.cat([(one * features).sum(dim=1, keepdim=True) for one in near], dim=1)  # b j h w
    alike = along / torch.cat(neighbours(length, dilation), dim=1) / length  # cosines
    mean = torch.zeros_like(features)
    for one in near:
        mean = mean + one / len(near)
    variance = torch.zeros_like(features)
    for one in near:
        variance = variance + (one - mean).square() / (len(near) - 1)
    deviation = variance.clamp_min(1e-30).sqrt()  # not of 0, where a root has no gradient
    spread = deviation.mean(dim=1, keepdim=True)  # b 1 h w: a busy area listens more evenly
    return (alike / (spread + 1e-8) / temperature).softmax(dim=1)


def propagate(cam: Tensor, affinity: Tensor, dilation: int, rounds: int) -> Tensor:
    """b h w, b j h w -> b h w: `rounds` times, each position becomes the affinity-weighted mean of its 8 neighbours."""
    for _ in range(rounds):
        cam = (torch.cat(neighbours(cam[:, None], dilation), dim=1) * affinity).sum(dim=1)  # eq. 13
    return cam


def refine(
    cam: Tensor,
    sequence: Tensor,
    attention: Tensor,
    valid: Tensor,
    labels: Tensor,
    affinity_params: AffinityParams,
    temporal_params: TemporalParams,
    blend: float,
) -> Tensor:
    """b k h w (cam), b n t d, b k t, b t, labels b k -> b k h w: (1 - blend) raw + blend propagated.

    Only classes present in the image label are propagated; the others come back as they are.
    """
    weights = temporal_weights(attention, valid, temporal_params.kind, temporal_params.sharpness)
    features = rearrange(weighted_sequence(sequence, weights), "b k (h w) d -> b k d h w", h=cam.shape[2])
    window, crop = labels.nonzero(as_tuple=True)
    raw = cam[window, crop]
    listened = affinity(features[window, crop], affinity_params.dilation, affinity_params.temperature)
    spread = propagate(raw, listened, affinity_params.dilation, affinity_params.rounds)
    return cam.index_put((window, crop), (1 - blend) * raw + blend * spread)
