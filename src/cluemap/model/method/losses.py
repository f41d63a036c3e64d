"""The losses of eq. 15 but for the clue loss, which stands with the clues.

Under several ranks a loss is this rank's share: the shares of all ranks sum to the loss of the whole batch. `total`
sums a tensor over all ranks (one process: identity).
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Total = Callable[[Tensor], Tensor]


def identity(x: Tensor) -> Tensor:
    """`total` of one process."""
    return x


def classification_loss(logits: Tensor, labels: Tensor, total: Total = identity, known: Tensor | None = None) -> Tensor:
    """b k, b k, known b k -> scalar: multi-label soft-margin loss, mean over windows and classes; what is not known
    does not count (None: all is known)."""
    if known is None:
        count = total(logits.new_tensor(float(logits.numel())))
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="sum") / count
    weight = known.to(logits.dtype)
    count = total(weight.sum()).clamp_min(1.0)
    return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), weight, reduction="sum") / count


def tap_loss(raw: Tensor, refined: Tensor, labels: Tensor, total: Total = identity) -> Tensor:
    """b k i j, b k i j, b k -> scalar: mean change by propagation over the present classes' positions (eq. 14)."""
    present = labels.to(raw.dtype)
    count = total(present.sum()) * raw.shape[-1] * raw.shape[-2]
    change = (refined - raw).abs().sum(dim=(2, 3)) * present
    return change.sum() / count.clamp_min(1.0)


def pixel_loss(
    logits: Tensor, truth: Tensor, total: Total = identity, weights: Tensor | None = None,
    confidence: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """b k h w, b h w (255 ignored) -> scalar: cross-entropy, mean over the pixels that count, each with the weight (k)
    of its true class (None: 1) times its own confidence (b h w; None: 1)."""
    known = truth != 255
    if confidence is None:
        mass = (
            known.sum().to(logits.dtype) if weights is None else (weights[torch.where(known, truth, 0)] * known).sum()
        )
        loss = F.cross_entropy(logits, truth, weights, ignore_index=255, reduction="sum")
        return loss / total(mass).clamp_min(1.0 if weights is None else 1e-12)
    each = confidence * known if weights is None else confidence * known * weights[torch.where(known, truth, 0)]
    loss = (each * F.cross_entropy(logits, truth, ignore_index=255, reduction="none")).sum()
    return loss / total(each.sum()).clamp_min(1e-12)


def soft_pixel_loss(
    logits: Tensor, probabilities: Tensor, total: Total = identity, weights: Tensor | None = None
) -> Tensor:
    """b k h w, b k h w -> scalar: cross-entropy against the probabilities, each class with its weight (k; None: 1); the
    mean over their mass, so a pixel of which nothing is known (all 0) does not count."""
    held = probabilities if weights is None else probabilities * weights[:, None, None]
    return -(held * F.log_softmax(logits, dim=1)).sum() / total(held.sum()).clamp_min(1e-12)


def focal_loss(logits: Tensor, target: Tensor, gamma: float, total: Total = identity) -> Tensor:
    """b k, b -> scalar: mean of -(1 - p) ** gamma * log p of the true class (Lin et al. 2017)."""
    count = total(logits.new_tensor(float(len(target))))
    log_share = F.log_softmax(logits, dim=1).gather(1, target[:, None])[:, 0]
    return (-((1 - log_share.exp()) ** gamma) * log_share).sum() / count.clamp_min(1.0)
