"""What a teacher's answers about unlabelled windows teach (METHOD section 16), of pixels or of windows: pure maths.

Axes beside METHOD's: `s` the classes that a segmenter tells apart (background included, where there is one). Under
several ranks a loss is this rank's share; `total` sums a tensor over all ranks.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cluemap.model.method.losses import Total, identity

UNSURE = 255  # label of a pixel that teaches nothing


class Confidence(NamedTuple):
    """How sure the teacher has been: moving means over the steps (FreeMatch, Wang et al. 2023, eq. 5 to 7)."""

    overall: Tensor  # a number: of the largest probability of a pixel
    classes: Tensor  # s: of the probability of each class

    @classmethod
    def start(cls, classes: int) -> "Confidence":
        """Before the first step: all classes are equally probable."""
        return cls(torch.tensor(1 / classes), torch.full((classes,), 1 / classes))

    def moved(self, probabilities: Tensor, momentum: float, total: Total = identity) -> "Confidence":
        """probabilities b s h w, over all ranks -> the means after this step. Pixels without any class do not count."""
        known = (probabilities.sum(dim=1) > 0).sum()
        sums = torch.cat([probabilities.amax(dim=1).sum()[None], probabilities.sum(dim=(0, 2, 3)), known[None]])
        sums = total(sums)
        now = sums[:-1] / sums[-1].clamp_min(1.0)
        before = torch.cat([self.overall[None], self.classes])
        moved = torch.where(sums[-1] > 0, momentum * before + (1 - momentum) * now, before)
        return Confidence(moved[0], moved[1:])

    def thresholds(self) -> Tensor:
        """s: the overall mean, lower for classes that the teacher has been less sure of (FreeMatch, eq. 8)."""
        return self.overall * self.classes / self.classes.max()


def probabilities_of(logits: Tensor, may: Tensor) -> Tensor:
    """b s h w, b s (bool) -> b s h w: over the classes that a window may hold; 0 for the others, and for all where it
    may hold none.
    """
    found = logits.masked_fill(~may[:, :, None, None], -torch.inf).softmax(dim=1)
    return torch.where(may.any(dim=1)[:, None, None, None], found, 0.0)


def teacher_labels(probabilities: Tensor, thresholds: Tensor) -> Tensor:
    """b s h w, s -> b h w: the most probable class; UNSURE where it is less probable than its threshold."""
    best, label = probabilities.max(dim=1)
    return torch.where((best > 0) & (best >= thresholds[label]), label, UNSURE)


def unlabelled_loss(logits: Tensor, labels: Tensor, total: Total = identity) -> Tensor:
    """b s h w, b h w -> scalar: cross-entropy of the sure pixels over the number of all pixels (FixMatch, Sohn et al.
    2020, eq. 4): few sure pixels weigh little.
    """
    count = total(logits.new_tensor(float(labels.numel())))
    return F.cross_entropy(logits, labels, ignore_index=UNSURE, reduction="sum") / count.clamp_min(1.0)


def sure_labels(probabilities: Tensor, negative: float, positive: float) -> tuple[Tensor, Tensor]:
    """b k -> b k, b k: whether a class is taken for present (it reaches `positive`), and whether the teacher is sure of
    it: present, or not over `negative` and so absent.
    """
    present = probabilities >= positive
    return present, present | (probabilities <= negative)


def unlabelled_label_loss(logits: Tensor, present: Tensor, sure: Tensor, total: Total = identity) -> Tensor:
    """b k, b k, b k -> scalar: soft-margin loss of the classes that the teacher is sure of over the number of all, as
    `unlabelled_loss`.
    """
    count = total(logits.new_tensor(float(logits.numel())))
    target, weight = present.to(logits.dtype), sure.to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum") / count.clamp_min(1.0)


def distillation_loss(student: Tensor, teacher: Tensor, total: Total = identity) -> Tensor:
    """Two of one shape -> scalar: mean squared difference; no gradient reaches the teacher."""
    count = total(student.new_tensor(float(student.numel())))
    return F.mse_loss(student, teacher.detach(), reduction="sum") / count.clamp_min(1.0)
