"""Space-time perceptive clues: which positions teach which clue, how clues move, and their loss (METHOD section 4).

Everything is batched over classes. `total` sums a tensor over all ranks, so that N ranks agree with one process; only
sums of clue size cross ranks, never features.
"""

from typing import NamedTuple

import torch
from einops import einsum, rearrange, reduce
from torch import Tensor
from torch.nn import functional as F

from cluemap.model.method.losses import Total, identity
from cluemap.params import ClueParams

TINY = 1e-300  # keeps 0 / 0 of empty classes at 0


class Clues(NamedTuple):
    """Unit vectors in the space of the class tokens; moved only by `moved`, never by a gradient."""

    positive: Tensor  # k m d
    negative: Tensor  # k m d


class Used(NamedTuple):
    """The positions of one sign that teach clues, and the clue each was assigned to."""

    mask: Tensor  # b n k bool
    assigned: Tensor  # b n k, clue 0..m-1; meaningless where mask is false


def random_clues(classes: int, count: int, width: int, generator: torch.Generator) -> Clues:
    """Two sets of random unit vectors, k m d each."""
    drawn = torch.randn(2, classes, count, width, generator=generator)
    return Clues(*F.normalize(drawn, dim=-1))


def cosine_to(dense: Tensor, clues: Tensor) -> Tensor:
    """b n k d, k m d -> b n k m: cosine of each position's class token to that class's clues."""
    return einsum(F.normalize(dense, dim=-1), F.normalize(clues, dim=-1), "b n k d, k m d -> b n k m")


def normalised_cam(cam: Tensor) -> Tensor:
    """b k n -> b k n: divided by its maximum over the window, per class (+1e-5)."""
    return cam / (reduce(cam, "b k n -> b k 1", "max") + 1e-5)


def used_positions(
    cam: Tensor, labels: Tensor, mu_high: float, mu_low: float, negatives_from: str, known: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """b k n (normalised), b k -> positive, negative, both b k n bool (eq. 4).

    Positive: CAM >= mu_high in windows that contain the class. Negative: CAM <= mu_low in all windows or in those;
    not in windows that are not `known` (b k) to hold the class or not.
    """
    contains = labels[:, :, None]
    negative = cam <= mu_low
    if known is not None:
        negative = negative & known[:, :, None]
    return (cam >= mu_high) & contains, negative & contains if negatives_from == "present_windows" else negative


def transport(scores: Tensor, used: Tensor, eta: float, rounds: int, total: Total = identity) -> Tensor:
    """k N m, k N bool -> k N m: entropic optimal transport of positions to clues in equal shares (eq. 5, 6).

    Each used position's row sums to 1; rows of unused positions are 0. In float64, since exp(scores / eta) spans more
    than float32 holds when eta is small.
    """
    clue_count, given = scores.shape[-1], scores.dtype
    scores = scores.double()
    weight = used.double()[..., None]
    positions = total(weight.sum(dim=(1, 2))).clamp_min(1.0)[:, None, None]  # k 1 1: N over all ranks
    plan = torch.exp(scores / eta) * weight
    plan = plan / total(plan.sum(dim=(1, 2), keepdim=True)).clamp_min(TINY)
    for _ in range(rounds):
        plan = plan / total(plan.sum(dim=1, keepdim=True)).clamp_min(TINY) / clue_count
        plan = plan / plan.sum(dim=2, keepdim=True).clamp_min(TINY) / positions
    return (plan * positions).to(given)


def assign(plan: Tensor, assignment: str, generator: torch.Generator | None = None) -> Tensor:
    """k N m -> k N: each position's clue; `argmax` of its row, or `gumbel`: drawn with the row's probabilities."""
    if assignment == "gumbel":
        uniform = torch.rand(plan.shape, generator=generator, dtype=plan.dtype, device=plan.device)
        plan = plan.clamp_min(1e-30).log() - (-uniform.clamp(1e-20, 1 - 1e-7).log()).log()
    return plan.argmax(dim=-1)


def moved(
    clues: Tensor, features: Tensor, assigned: Tensor, weight: Tensor, momentum: float, total: Total = identity
) -> Tensor:
    """clues k m d, features k N d (unit length), assigned k N, weight k N -> k m d (eq. 7).

    Each clue goes towards the weighted mean of its positions and is brought back to unit length; one that got no
    position (weight 0 everywhere) stays.
    """
    mine = F.one_hot(assigned, clues.shape[1]).to(weight.dtype) * weight[..., None]  # k N m
    gathered = total(einsum(mine, features, "k n m, k n d -> k m d"))
    received = total(mine.sum(dim=1))[..., None] > 0  # k m 1
    towards = F.normalize(momentum * clues + (1 - momentum) * F.normalize(gathered, dim=-1), dim=-1)
    return torch.where(received, towards, clues)


def position_weights(cam: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Normalised CAM M, any shape -> weights as positives, as negatives. cam: M, 1 - M; squared: M^2 for both."""
    if kind == "squared":
        return cam**2, cam**2
    if kind == "binary":
        return torch.ones_like(cam), torch.ones_like(cam)
    return cam, 1 - cam


@torch.no_grad()
def learn(
    dense: Tensor,
    cam: Tensor,
    labels: Tensor,
    clues: Clues,
    params: ClueParams,
    total: Total = identity,
    generator: torch.Generator | None = None,
    known: Tensor | None = None,
) -> tuple[Clues, Used, Used]:
    """dense b n k d, raw cam b k n, labels b k, known b k -> moved clues, and each sign's positions that moved them."""
    unit = F.normalize(dense, dim=-1)
    cam = normalised_cam(cam)
    chosen = used_positions(cam, labels, params.mu_high, params.mu_low, params.negatives_from, known)
    weights = position_weights(cam, params.weights)
    features = rearrange(unit, "b n k d -> k (b n) d")
    new, used = [], []
    for old, mask, weight in zip(clues, chosen, weights, strict=True):
        flat = rearrange(mask, "b k n -> k (b n)")
        scores = einsum(features, old, "k n d, k m d -> k n m")
        assigned = assign(transport(scores, flat, params.eta, params.rounds, total), params.assignment, generator)
        weight = rearrange(weight, "b k n -> k (b n)") * flat
        new.append(moved(old, features, assigned, weight, params.momentum, total))
        used.append(Used(rearrange(mask, "b k n -> b n k"), rearrange(assigned, "k (b n) -> b n k", b=len(cam))))
    return Clues(*new), used[0], used[1]


def clue_loss(
    dense: Tensor,
    clues: Clues,
    positive: Used,
    negative: Used,
    labels: Tensor,
    tau: float,
    positive_in_denominator: bool,
    total: Total = identity,
) -> Tensor:
    """b n k d -> scalar: every used position is drawn to its clue, away from all others (eq. 8, 9).

    Mean over the positions of a class, then over the classes present in the batch that have a used position.
    """
    everything = F.normalize(rearrange(torch.stack(clues).detach(), "sign k m d -> (sign k m) d"), dim=-1)
    cosine = einsum(F.normalize(dense, dim=-1), everything, "b n k d, a d -> b n k a") / tau
    classes, count = clues.positive.shape[:2]
    home = count * torch.arange(classes, device=dense.device)  # a class's first clue among the positives
    share = dense.new_zeros(classes)
    positions = dense.new_zeros(classes)
    for sign, used in enumerate((positive, negative)):
        target = home + used.assigned + sign * classes * count  # b n k
        loss = _cross_entropy(cosine, target, positive_in_denominator)
        share = share + (loss * used.mask).sum(dim=(0, 1))
        positions = positions + used.mask.sum(dim=(0, 1))
    positions = total(positions)
    counted = (total(labels.sum(dim=0).to(dense.dtype)) > 0) & (positions > 0)
    per_class = share / positions.clamp_min(1.0) * counted
    return per_class.sum() / counted.sum().clamp_min(1)


def _cross_entropy(logits: Tensor, target: Tensor, positive_in_denominator: bool) -> Tensor:
    """b n k a, b n k -> b n k."""
    own = logits.gather(-1, target[..., None])
    others = logits
    if not positive_in_denominator:
        others = logits.scatter(-1, target[..., None], -torch.inf)
    return (others.logsumexp(dim=-1, keepdim=True) - own).squeeze(-1)
