"""Attention of one tile on the CPU (see tiles.py): values mixed forward, and gradients back.

float32 and float64 go through torch's fused attention. Its backward pass is slow in bfloat16 (3 to 20 GFLOP/s where
float32 has 40 to 60), so that half precision goes head by head through plain products, with the softmax in float32.
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


class Tile(NamedTuple):
    """Sequences start..stop, cut behind their last date."""

    start: int
    stop: int
    length: int
    asked: int  # first tokens that come out
    hidden: Tensor | None  # s 1 l: -inf at keys that no query may see, 0 elsewhere; None = all may be seen

    @property
    def size(self) -> int:
        return self.stop - self.start


def mix(projected: Tensor, tile: Tile, plan: Plan, attention: Tensor) -> tuple[Tensor, Tensor | None]:
    """(s l) (three a e) -> (s asked) (a e), and what `mix_back` wants to be given again (s a asked, or None).

    The first tokens' attention to the dates, mean over heads, is added to `attention` (s first dates).
    """
    parts = projected.view(tile.size, tile.length, 3, plan.heads, -1)
    if plan.dtype == torch.bfloat16:
        return _mix_by_head(parts, tile, plan, attention), None
    query, key, value = parts.permute(2, 0, 3, 1, 4)
    query = query[:, :, : tile.asked]
    mixed, sums = aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, attn_mask=_mask(tile))
    if plan.first:
        scores = query[:, :, : plan.first] @ key[:, :, plan.first :].transpose(2, 3) * query.shape[-1] ** -0.5
        scores -= sums[:, :, : plan.first, None]
        if tile.hidden is not None:
            scores += tile.hidden[:, None, :, plan.first :]
        attention[:, :, : scores.shape[3]] = scores.exp_().mean(dim=1)
    return mixed.transpose(1, 2).flatten(2).flatten(0, 1), sums


def mix_back(above: Tensor, projected: Tensor, mixed: Tensor, sums: Tensor | None, tile: Tile, plan: Plan) -> Tensor:
    """Gradient of `mix`: (s asked) (a e) of the mixed values -> (s l) (three a e)."""
    parts = projected.view(tile.size, tile.length, 3, plan.heads, -1)
    below = torch.empty_like(parts)
    below[:, tile.asked :, 0] = 0.0
    apart = lambda x: x.view(tile.size, tile.asked, plan.heads, -1)
    if sums is None:
        _mix_back_by_head(apart(above), parts, below, tile)
        return below.flatten(2).flatten(0, 1)
    query, key, value = parts.permute(2, 0, 3, 1, 4)
    query, above, mixed = query[:, :, : tile.asked], apart(above).transpose(1, 2), apart(mixed).transpose(1, 2)
    found = aten._scaled_dot_product_flash_attention_for_cpu_backward(
        above, query, key, value, mixed, sums, 0.0, False, attn_mask=_mask(tile)
    )
    for at, part in enumerate(found):
        below[:, : part.shape[2], at] = part.transpose(1, 2)
    return below.flatten(2).flatten(0, 1)


def _mask(tile: Tile) -> Tensor | None:
    if tile.hidden is None:
        return None
    return tile.hidden[:, None].expand(tile.size, 1, tile.asked, tile.length)


def _mix_by_head(parts: Tensor, tile: Tile, plan: Plan, attention: Tensor) -> Tensor:
    """s l three a e -> (s asked) (a e)."""
    query, key, value = parts.unbind(dim=2)
    mixed = torch.empty_like(value[:, : tile.asked], memory_format=torch.contiguous_format)
    for head in range(plan.heads):
        share = _share(query[:, : tile.asked, head], key[:, :, head], tile)
        if plan.first:
            part = share[:, : plan.first, plan.first :]
            attention[:, :, : part.shape[2]].add_(part, alpha=1 / plan.heads)
        torch.bmm(share.to(mixed.dtype), value[:, :, head], out=mixed[:, :, head])
    return mixed.flatten(2).flatten(0, 1)


def _share(query: Tensor, key: Tensor, tile: Tile) -> Tensor:
    """s q e, s l e -> s q l: one head's attention, rows sum to 1; in float32."""
    bias = query.new_empty(1) if tile.hidden is None else tile.hidden
    scale = query.shape[-1] ** -0.5
    scores = torch.baddbmm(bias, query, key.transpose(1, 2), beta=tile.hidden is not None, alpha=scale)
    return scores.softmax(dim=-1, dtype=torch.float32)


def _mix_back_by_head(above: Tensor, parts: Tensor, below: Tensor, tile: Tile) -> None:
    """s asked a e, s l three a e -> the gradient of the latter, into `below`."""
    query, key, value = parts.unbind(dim=2)
    query, dtype = query[:, : tile.asked], parts.dtype
    for head in range(query.shape[2]):
        part, keys, queries = above[:, :, head], key[:, :, head], query[:, :, head]
        share = _share(queries, keys, tile)
        torch.bmm(share.to(dtype).transpose(1, 2), part, out=below[:, :, 2, head])
        of_share = torch.bmm(part, value[:, :, head].transpose(1, 2)).float()
        of_scores = aten._softmax_backward_data(of_share, share, -1, torch.float32).mul_(query.shape[-1] ** -0.5)
        of_scores = of_scores.to(dtype)
        torch.bmm(of_scores, keys, out=below[:, : tile.asked, 0, head])
        torch.bmm(of_scores.transpose(1, 2), queries, out=below[:, :, 1, head])
