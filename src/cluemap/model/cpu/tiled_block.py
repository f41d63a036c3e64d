"""A transformer block on the CPU, a few sequences (a tile) at a time: the maths of `blocks.Block` in another order.

A tile goes through the whole block while it lies in the processor's cache, and dates behind the last one of its
sequences are left out. Kept for the gradient are the block's input, the mixed values, the sum after attention and,
where there is room, attention, queries, keys and values, and the feed-forward half before its GELU; the rest is made
again, tile by tile. Linear layers in float32 go through oneDNN where torch has it: on some processors torch's own
choice has half its rate.
"""

from collections.abc import Iterator
from itertools import accumulate, islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from cluemap.model.cpu.tiled_attention import Plan, Tile, by_head, mix, mix_back

BYTES = 2**22  # of a tile's widest activation, for each thread: less costs time in starting operations
EPSILON = 1e-5  # of nn.LayerNorm
# Bytes up to which one transformer's blocks keep for the gradient (each process for itself) more than they must. At the
# paper's sizes and batches of 4 the segmenter so keeps all, and the classifier, twice as deep, stays under 2.5 GB.
KEPT = 1.17e9
aten = torch.ops.aten
ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


class Weights(NamedTuple):
    """One block's, in the order in which they are used."""

    first_scale: Tensor
    first_shift: Tensor
    query_key_value: Tensor
    out: Tensor
    out_bias: Tensor
    second_scale: Tensor
    second_shift: Tensor
    wide: Tensor
    wide_bias: Tensor
    narrow: Tensor
    narrow_bias: Tensor


def usable(x: Tensor, dropout: float) -> bool:
    """Whether a block may run in tiles: on the CPU, without random draws, and not while torch.compile looks on."""
    return x.device.type == "cpu" and dropout == 0.0 and not torch.compiler.is_compiling()


def block(
    x: Tensor,
    seen: Tensor | None,
    weights: Weights,
    heads: int,
    residual: str,
    first: int = 0,
    asked: int = 0,
    room: float = 0,
) -> Any:
    """s l d, seen s l bool or None (all) -> s l d, and s first (l - first): what the first tokens attend to.

    `asked`: only so many first tokens are wanted (0 = all). Values at dates behind the last seen one of a tile are
    those of `x`. No gradient passes through the attention. More is kept for the gradient than must be as long as all
    of it fits into `room` bytes.
    """
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    keep = torch.is_grad_enabled() and (x.requires_grad or any(weight.requires_grad for weight in weights))
    with torch.autocast("cpu", enabled=False):
        return _Block.apply(x.contiguous(), seen, Plan(heads, residual, first, asked, dtype, keep, room), *weights)


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, seen: Tensor | None, plan: Plan, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        weights = _cast(Weights(*parameters), plan.dtype)
        s, length, d = x.shape
        out = x.new_empty(s, plan.asked or length, d)
        attention = x.new_zeros(s, plan.first, length - plan.first if plan.first else 0)
        fitting, passed = _fitting(x, weights, plan), []
        kept: list[Tensor | None] = []
        for tile in _tiles(x, seen, weights, plan):
            here = slice(tile.start, tile.stop)
            rows = _take(x, tile, tile.length)
            normed = _norm(rows, weights.first_scale, weights.first_shift)[0]
            projected = _product(normed.to(plan.dtype), weights.query_key_value)
            parts = by_head(projected, tile, plan)
            mixed, share = mix(parts, tile, plan, attention[here])
            middle = _product(mixed, weights.out, weights.out_bias).to(x.dtype)
            for kind, part in (("plain", rows), ("normed", normed)):
                if plan.residual in (kind, "both"):
                    middle.add_(_asked(part, tile).reshape(middle.shape))
            second = _norm(middle, weights.second_scale, weights.second_shift)[0]
            wide = _product(second.to(plan.dtype), weights.wide, weights.wide_bias)
            narrow = _product(F.gelu(wide), weights.narrow, weights.narrow_bias)
            _put(out, tile, middle + narrow)
            if not plan.asked:
                out[here, tile.length :] = x[here, tile.length :]
            if plan.keep:
                passed.append(tile)
                kept.extend(Kept(mixed, middle, *(share, parts, wide)[:fitting]))
        if plan.keep:
            ctx.plan, ctx.tiles = plan, passed
            ctx.save_for_backward(x, *parameters, *kept)
        ctx.mark_non_differentiable(attention)
        return out, attention

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor, _attention: Tensor) -> tuple[Tensor | None, ...]:
        plan: Plan = ctx.plan
        x, *saved = ctx.saved_tensors
        parameters, kept = saved[: len(Weights._fields)], iter(saved[len(Weights._fields) :])
        weights = _cast(Weights(*parameters), plan.dtype)
        found = Weights(*(torch.zeros_like(weight) for weight in parameters))
        below = torch.empty_like(x)
        for tile in ctx.tiles:
            mixed, middle, share, parts, wide = Kept(*islice(kept, len(Kept._fields)))
            here = slice(tile.start, tile.stop)
            rows, top = _take(x, tile, tile.length), _take(above, tile, tile.asked)
            # feed-forward half
            second, *about = _norm(middle, weights.second_scale, weights.second_shift)
            inputs = second.to(plan.dtype)
            if wide is None:
                wide = _product(inputs, weights.wide, weights.wide_bias)
            part = top.to(plan.dtype)
            _gather(found.narrow, found.narrow_bias, part, F.gelu(wide))
            part = aten.gelu_backward(_back(part, weights.narrow), wide)
            _gather(found.wide, found.wide_bias, part, inputs)
            part = _back(part, weights.wide).to(x.dtype)
            scales = weights.second_scale, weights.second_shift, found.second_scale, found.second_shift
            up = top + _norm_back(part, middle, about, *scales)
            # attention half
            part = up.to(plan.dtype)
            _gather(found.out, found.out_bias, part, mixed)
            normed, *about = _norm(rows, weights.first_scale, weights.first_shift)
            inputs = normed.to(plan.dtype)
            if parts is None:
                parts = by_head(_product(inputs, weights.query_key_value), tile, plan)
            part = mix_back(_back(part, weights.out), parts, share, tile, plan)
            _gather(found.query_key_value, None, part, inputs)
            part = _back(part, weights.query_key_value).to(x.dtype)
            up = up.view(tile.size, tile.asked, -1)
            if plan.residual != "plain":
                _asked(part, tile).add_(up)
            scales = weights.first_scale, weights.first_shift, found.first_scale, found.first_shift
            part = _norm_back(part, rows, about, *scales)
            if plan.residual != "normed":
                _asked(part, tile).add_(up)
            _put(below, tile, part)
            below[here, tile.length :] = 0.0 if plan.asked else above[here, tile.length :]
        return below, None, None, *found


class Kept(NamedTuple):
    """What a tile keeps for the gradient."""

    mixed: Tensor  # (s asked) (a e)
    middle: Tensor  # (s asked) d, after the attention half
    share: Tensor | None = None  # (s a) asked l, the attention; this and the next ones None where they are made again
    parts: Tensor | None = None  # three (s a) l e, query, key, value
    wide: Tensor | None = None  # (s asked) w, before the GELU


def _fitting(x: Tensor, weights: Weights, plan: Plan) -> int:
    """How many of the last three of `Kept` there is room for, in their order."""
    s, length, d = x.shape
    tokens, item = s * (plan.asked or length), plan.dtype.itemsize
    always = x.nbytes + tokens * (d * x.itemsize + weights.out.shape[1] * item)
    share, parts = tokens * plan.heads * length * item, s * length * len(weights.query_key_value) * item
    sums = accumulate((share, parts, tokens * len(weights.wide) * item), initial=always)
    return max(0, sum(bytes_ <= plan.room for bytes_ in sums) - 1)


def _tiles(x: Tensor, seen: Tensor | None, weights: Weights, plan: Plan) -> Iterator[Tile]:
    s, length, _ = x.shape
    widest = max(len(weights.query_key_value), len(weights.wide), plan.heads * length) * length * plan.dtype.itemsize
    size = max(1, BYTES * torch.get_num_threads() // widest)
    if seen is not None and seen.all():
        seen = None
    if seen is not None:
        ends = (seen * torch.arange(1, length + 1)).amax(dim=1)
    for start in range(0, s, size):
        stop, end, hidden = min(s, start + size), length, None
        if seen is not None:
            end = max(1, int(ends[start:stop].max()))
            looked = seen[start:stop, :end]
            if not looked.all():
                lowest = torch.finfo(plan.dtype).min  # not -inf: a sequence of which nothing is seen stays finite
                hidden = torch.zeros(looked.shape, dtype=plan.dtype).masked_fill_(~looked, lowest)[:, None]
        yield Tile(start, stop, end, plan.asked or end, hidden)


def _cast(weights: Weights, dtype: torch.dtype) -> Weights:
    """The products' weights in their dtype; the norms' stay."""
    norms = ("first_scale", "first_shift", "second_scale", "second_shift")
    return Weights(*(w if name in norms else w.to(dtype) for name, w in weights._asdict().items()))


def _take(whole: Tensor, tile: Tile, length: int) -> Tensor:
    """s l d -> (s length) d of a tile."""
    return whole[tile.start : tile.stop, :length].flatten(0, 1)


def _put(whole: Tensor, tile: Tile, part: Tensor) -> None:
    """The opposite of `_take`."""
    length = len(part) // tile.size
    whole[tile.start : tile.stop, :length] = part.view(tile.size, length, -1)


def _asked(part: Tensor, tile: Tile) -> Tensor:
    """(s l) d -> s asked d, a view."""
    return part.view(tile.size, tile.length, -1)[:, : tile.asked]


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """r i, o i -> r o."""
    if ONEDNN is not None and x.dtype == torch.float32:
        return ONEDNN(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def _back(above: Tensor, weight: Tensor) -> Tensor:
    """r o, o i -> r i: the gradient of `_product`'s input."""
    return _product(above, weight.t())


def _gather(weight: Tensor, bias: Tensor | None, above: Tensor, inputs: Tensor) -> None:
    """r o, r i: add the gradients of `_product`'s weight (o i) and bias (o) to what is there."""
    wide = above.shape[1] > inputs.shape[1]  # the smaller one first is faster
    weight.add_(_product(inputs.t(), above.t()).t() if wide else _product(above.t(), inputs.t()))
    if bias is not None:
        bias.add_(above.sum(dim=0))  # in half precision the sum is rounded once, as torch's own gradient is


def _norm(x: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """r d -> r d, and its mean and inverse spread."""
    return aten.native_layer_norm(x, [len(scale)], scale, shift, EPSILON)


def _norm_back(
    above: Tensor, x: Tensor, about: list[Tensor], scale: Tensor, shift: Tensor, scale_sum: Tensor, shift_sum: Tensor
) -> Tensor:
    """The gradient of `_norm`'s input; those of scale and shift are added to what is there."""
    below, of_scale, of_shift = aten.native_layer_norm_backward(
        above, x, [len(scale)], *about, scale, shift, [True, True, True]
    )
    scale_sum.add_(of_scale)
    shift_sum.add_(of_shift)
    return below
