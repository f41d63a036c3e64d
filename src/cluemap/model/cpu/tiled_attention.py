"""Attention of one tile on the CPU (see tiles.py): values mixed forward, and gradients back.

All heads of all sequences of a tile go through plain batched products, which form the tile's heads x l x l attention.
torch's fused attention, which does not, is made for longer sequences: at the 80 to 150 tokens here its products are too
small, forward and still more so backward.
"""

from typing import NamedTuple

import torch
from torch import Tensor

aten = torch.ops.aten


class Plan(NamedTuple):
    """What a block does, beside its weights."""

    heads: int
    residual: str  # plain | normed | both
    first: int  # attention of so many first tokens to the rest is wanted; 0 = not wanted
    asked: int  # so many first tokens come out of the block; 0 = all
    dtype: torch.dtype  # of the products
    keep: bool  # for a gradient
    room: float  # bytes up to which more is kept for the gradient than must be


class Tile(NamedTuple):
    """Sequences start..stop, cut behind their last date."""

    start: int
    stop: int
    length: int
    asked: int  # first tokens that come out
    hidden: Tensor | None  # s 1 l: lowest number at keys that no query may see, 0 elsewhere; None = all may be seen

    @property
    def size(self) -> int:
        return self.stop - self.start


def by_head(projected: Tensor, tile: Tile, plan: Plan) -> Tensor:
    """(s l) (three a e) -> three (s a) l e."""
    return projected.view(tile.size, tile.length, 3, plan.heads, -1).permute(2, 0, 3, 1, 4).flatten(1, 2)


def mix(parts: Tensor, tile: Tile, plan: Plan, attention: Tensor) -> tuple[Tensor, Tensor]:
    """three (s a) l e -> (s asked) (a e), and the shares (s a) asked l in which the values were mixed.

    The first tokens' attention to the dates, mean over heads, is put into `attention` (s first dates).
    """
    query, key, value = parts.unbind()
    query = query[:, : tile.asked]
    share = _share(query, key, tile, plan)
    if plan.first:
        part = share[:, : plan.first, plan.first :].unflatten(0, (tile.size, -1))
        attention[:, :, : part.shape[3]] = part.mean(dim=1, dtype=attention.dtype)
    mixed = torch.bmm(share, value).unflatten(0, (tile.size, -1))
    return mixed.transpose(1, 2).flatten(2).flatten(0, 1), share


def mix_back(above: Tensor, parts: Tensor, share: Tensor | None, tile: Tile, plan: Plan) -> Tensor:
    """Gradient of `mix` and `by_head`: (s asked) (a e) of the mixed values -> (s l) (three a e).

    The shares are made again where there are none.
    """
    query, key, value = parts.unbind()
    query = query[:, : tile.asked]
    if share is None:
        share = _share(query, key, tile, plan)
    above = above.view(tile.size, tile.asked, plan.heads, -1).transpose(1, 2).flatten(0, 1)
    below = torch.empty(3, *key.shape, dtype=plan.dtype)
    torch.bmm(share.transpose(1, 2), above, out=below[2])
    # A softmax's gradient ignores what a whole row shares. Taken out, it is not left over from a row of rounded shares.
    apart = value - value.mean(dim=1, keepdim=True)
    of_share = torch.bmm(above, apart.transpose(1, 2))
    of_scores = aten._softmax_backward_data(of_share, share, -1, share.dtype)
    nothing, scale = of_scores.new_empty(1), query.shape[-1] ** -0.5
    below[0, :, : tile.asked] = torch.baddbmm(nothing, of_scores, key, beta=0, alpha=scale)
    below[0, :, tile.asked :] = 0.0
    torch.baddbmm(nothing, of_scores.transpose(1, 2), query, beta=0, alpha=scale, out=below[1])
    return below.unflatten(1, (tile.size, -1)).permute(1, 3, 0, 2, 4).flatten(2).flatten(0, 1)


def _share(query: Tensor, key: Tensor, tile: Tile, plan: Plan) -> Tensor:
    """b q e, b l e -> b q l: attention, rows sum to 1."""
    bias = query.new_empty(1) if tile.hidden is None else tile.hidden.repeat_interleave(plan.heads, dim=0)
    scale = query.shape[-1] ** -0.5
    scores = torch.baddbmm(bias, query, key.transpose(1, 2), beta=tile.hidden is not None, alpha=scale)
    if plan.dtype == torch.bfloat16:  # its own softmax takes three times as long
        return scores.softmax(dim=-1, dtype=torch.float32).to(plan.dtype)
    return scores.softmax(dim=-1)
