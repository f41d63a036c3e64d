"""Class activation maps: raw ones of the patch head, and the clue-based one (METHOD sections 2.5 and 6)."""

from einops import rearrange, reduce
from torch import Tensor
from torch.nn import functional as F

from cluemap.model.method.clues import Clues, cosine_to


def raw_cam(temporal: Tensor, spatial: Tensor, source: str = "fused") -> Tensor:
    """b k i j, b k i j (patch scores) -> b k i j: mean of both parts' positive scores, or one part alone.

    source: fused | temporal | spatial.
    """
    parts = {"fused": (temporal, spatial), "temporal": (temporal,), "spatial": (spatial,)}[source]
    return sum(F.relu(part) for part in parts) / len(parts)  # type: ignore[return-value]


def clue_cam(dense: Tensor, clues: Clues, labels: Tensor, height: int) -> Tensor:
    """b n k d, clues k m d -> b k i j: how much nearer the best positive clue is than the best negative (eq. 16).

    Zero for classes that are not in the image label (labels b k).
    """
    towards = cosine_to(dense, clues.positive).amax(dim=-1)  # b n k
    against = cosine_to(dense, clues.negative).amax(dim=-1)
    evidence = F.relu(towards - against) * labels[:, None]
    return rearrange(evidence, "b (i j) k -> b k i j", i=height)


def min_max(cam: Tensor) -> Tensor:
    """b k i j -> b k i j in 0..1, per window and class (+1e-8 in the divisor)."""
    low = reduce(cam, "b k i j -> b k 1 1", "min")
    high = reduce(cam, "b k i j -> b k 1 1", "max")
    return (cam - low) / (high - low + 1e-8)
