"""CAMs -> pseudo masks (METHOD section 7)."""

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED = 255


def upsample(cam: Tensor, size: int) -> Tensor:
    """b k i j -> b k h w: bilinear to `size` pixels a side."""
    return F.interpolate(cam, size=(size, size), mode="bilinear", align_corners=False)


def best_class(cam: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """b k h w, labels b k -> score b h w, class id b h w (1..K): the best class among those in the image label.

    Where no class is present the score is -inf: no threshold lets such a pixel become a crop.
    """
    present = cam.masked_fill(~labels[:, :, None, None], -torch.inf)
    score, winner = present.max(dim=1)
    return score, winner + 1


def pseudo_mask(score: Tensor, winner: Tensor, threshold: float, background: bool, ignore_band: float = 0.0) -> Tensor:
    """b h w, b h w -> b h w uint8: the winner where its score is over `threshold`, else background 0.

    Without a background class the winner stays at the threshold too, and a pixel under it is 255 (ignored in
    training), as are the pixels within `ignore_band` of the threshold.
    """
    below = 0 if background else IGNORED
    over = score > threshold if background else score >= threshold
    mask = torch.where(over, winner, below)
    if ignore_band > 0:
        mask = torch.where((score - threshold).abs() <= ignore_band, IGNORED, mask)
    return mask.to(torch.uint8)
