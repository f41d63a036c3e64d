"""A transformer block on the CPU, a few sequences (a tile) at a time: the maths of `blocks.Block` in another order.

A tile goes through the whole block while it lies in the processor's cache, and dates behind the last one of its
sequences are left out. Kept for the gradient are the block's input, the mixed values, the sum after attention and the
feed-forward half before its GELU; the rest is made again, tile by tile. Products in float32 go through oneDNN where
torch has it: on some processors torch's own choice has half its rate.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

BYTES = 2**21  # of a tile's widest activation, for each thread
EPSILON = 1e-5  # of nn.LayerNorm
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


class Plan(NamedTuple):
    """What a block does, beside its weights."""

    heads: int
    residual: str  # plain | normed | both
    first: int  # attention of so many first tokens to the rest is wanted; 0 = not wanted
    dtype: torch.dtype  # of the products
    keep: bool  # for a gradient


class Tile(NamedTuple):
    """Sequences start..stop, cut behind their last date."""

    start: int
    stop: int
    length: int
    hidden: Tensor | None  # s 1 l: -inf at keys that no query may see, 0 elsewhere; None = all may be seen


def usable(x: Tensor, dropout: float) -> bool:
    """Whether a block may run in tiles: on the CPU, without random draws, and not while torch.compile looks on."""
    return x.device.type == "cpu" and dropout == 0.0 and not torch.compiler.is_compiling()


def block(x: Tensor, seen: Tensor | None, weights: Weights, heads: int, residual: str, first: int = 0) -> Any:
    """s l d, seen s l bool or None (all) -> s l d, and s first (l - first): what the first tokens attend to.

    Values at dates behind the last seen one of a tile are those of `x`. No gradient passes through the attention.
    """
    mixed = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if mixed else x.dtype
    keep = torch.is_grad_enabled() and (x.requires_grad or any(weight.requires_grad for weight in weights))
    with torch.autocast("cpu", enabled=False):
        return _Block.apply(x.contiguous(), seen, Plan(heads, residual, first, dtype, keep), *weights)


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, seen: Tensor | None, plan: Plan, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        weights = _cast(Weights(*parameters), plan.dtype)
        s, length, d = x.shape
        kept = _room(x, weights, plan) if plan.keep else None
        out, attention = torch.empty_like(x), x.new_zeros(s, plan.first, length - plan.first if plan.first else 0)
        for tile in _tiles(x, seen, weights):
            rows = x[tile.start : tile.stop, : tile.length].reshape(-1, d)
            normed = _norm(rows, weights.first_scale, weights.first_shift)[0]
            projected = _product(normed.to(plan.dtype), weights.query_key_value)
            mixed = _mix(projected, tile, plan, attention[tile.start : tile.stop])
            middle = _product(mixed, weights.out, weights.out_bias).to(x.dtype)
            for kind, part in (("plain", rows), ("normed", normed)):
                if plan.residual in (kind, "both"):
                    middle.add_(part)
            second = _norm(middle, weights.second_scale, weights.second_shift)[0]
            wide = _product(second.to(plan.dtype), weights.wide, weights.wide_bias)
            narrow = _product(F.gelu(wide), weights.narrow, weights.narrow_bias)
            _put(out, tile, middle + narrow)
            out[tile.start : tile.stop, tile.length :] = x[tile.start : tile.stop, tile.length :]
            if kept:
                for whole, part in zip(kept, (mixed, middle, wide), strict=True):
                    _put(whole, tile, part)
        if kept:
            ctx.plan = plan
            ctx.save_for_backward(x, seen, *kept, *parameters)
        ctx.mark_non_differentiable(attention)
        return out, attention

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor, _attention: Tensor) -> tuple[Tensor | None, ...]:
        plan: Plan = ctx.plan
        x, seen, all_mixed, all_middle, all_wide, *parameters = ctx.saved_tensors
        weights, d = _cast(Weights(*parameters), plan.dtype), x.shape[2]
        found = Weights(*(torch.zeros_like(weight) for weight in parameters))
        below = torch.empty_like(x)
        for tile in _tiles(x, seen, weights):
            rows, top = (_take(whole, tile).reshape(-1, d) for whole in (x, above))
            mixed, middle, wide = (_take(whole, tile) for whole in (all_mixed, all_middle, all_wide))
            # feed-forward half
            part = top.to(plan.dtype)
            _gather(found.narrow, found.narrow_bias, part, F.gelu(wide))
            part = aten.gelu_backward(_back(part, weights.narrow), wide)
            second, *about = _norm(middle, weights.second_scale, weights.second_shift)
            _gather(found.wide, found.wide_bias, part, second.to(plan.dtype))
            part = _back(part, weights.wide).to(x.dtype)
            scales = weights.second_scale, weights.second_shift, found.second_scale, found.second_shift
            up = top + _norm_back(part, middle, about, *scales)
            # attention half
            part = up.to(plan.dtype)
            _gather(found.out, found.out_bias, part, mixed)
            normed, *about = _norm(rows, weights.first_scale, weights.first_shift)
            inputs = normed.to(plan.dtype)
            projected = _product(inputs, weights.query_key_value)
            part = _mix_back(_back(part, weights.out), projected, tile, plan)
            _gather(found.query_key_value, None, part, inputs)
            part = _back(part, weights.query_key_value).to(x.dtype)
            if plan.residual != "plain":
                part = part + up
            scales = weights.first_scale, weights.first_shift, found.first_scale, found.first_shift
            part = _norm_back(part, rows, about, *scales)
            _put(below, tile, part if plan.residual == "normed" else part.add_(up))
            below[tile.start : tile.stop, tile.length :] = above[tile.start : tile.stop, tile.length :]
        return below, None, None, *found


def _room(x: Tensor, weights: Weights, plan: Plan) -> tuple[Tensor, Tensor, Tensor]:
    """Where the activations kept for the gradient go: mixed, middle, wide."""
    make = lambda width, dtype: torch.empty(*x.shape[:2], width, dtype=dtype)
    return make(weights.out.shape[1], plan.dtype), make(x.shape[2], x.dtype), make(len(weights.wide), plan.dtype)


def _tiles(x: Tensor, seen: Tensor | None, weights: Weights) -> Iterator[Tile]:
    s, length, _ = x.shape
    widest = max(len(weights.query_key_value), len(weights.wide)) * length * weights.wide.element_size()
    size = max(1, BYTES * torch.get_num_threads() // widest)
    if seen is not None:
        places = torch.arange(1, length + 1)
        ends = (seen * places).amax(dim=1)
    for start in range(0, s, size):
        stop, end, hidden = min(s, start + size), length, None
        if seen is not None:
            end = int(ends[start:stop].max())
            looked = seen[start:stop, :end]
            if not looked.all():
                hidden = x.new_zeros(looked.shape, dtype=weights.wide.dtype).masked_fill_(~looked, -torch.inf)[:, None]
        yield Tile(start, stop, end, hidden)


def _cast(weights: Weights, dtype: torch.dtype) -> Weights:
    """The products' weights in their dtype; the norms' stay."""
    norms = ("first_scale", "first_shift", "second_scale", "second_shift")
    return Weights(*(w if name in norms else w.to(dtype) for name, w in weights._asdict().items()))


def _take(whole: Tensor, tile: Tile) -> Tensor:
    return whole[tile.start : tile.stop, : tile.length].flatten(0, 1)


def _put(whole: Tensor, tile: Tile, part: Tensor) -> None:
    whole[tile.start : tile.stop, : tile.length] = part.unflatten(0, (tile.stop - tile.start, tile.length))


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
        bias.add_(above.sum(dim=0, dtype=bias.dtype))


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


def _mix(projected: Tensor, tile: Tile, plan: Plan, attention: Tensor) -> Tensor:
    """(s l) (three a e) -> (s l) (a e): attention, head by head; that of the first tokens is added to s first dates."""
    query, key, value = projected.view(tile.stop - tile.start, tile.length, 3, plan.heads, -1).unbind(dim=2)
    mixed = torch.empty_like(value, memory_format=torch.contiguous_format)
    for head in range(plan.heads):
        share = _share(query[:, :, head], key[:, :, head], tile)
        if plan.first:
            part = share[:, : plan.first, plan.first :]
            attention[:, :, : part.shape[2]].add_(part, alpha=1 / plan.heads)
        torch.bmm(share.to(plan.dtype), value[:, :, head], out=mixed[:, :, head])
    return mixed.flatten(2).flatten(0, 1)


def _share(query: Tensor, key: Tensor, tile: Tile) -> Tensor:
    """s l e, s l e -> s l l: one head's attention, rows sum to 1; in float32 at least."""
    scale, wide = query.shape[-1] ** -0.5, torch.promote_types(query.dtype, torch.float32)
    bias = query.new_empty(1) if tile.hidden is None else tile.hidden
    scores = torch.baddbmm(bias, query, key.transpose(1, 2), beta=tile.hidden is not None, alpha=scale)
    return scores.softmax(dim=-1, dtype=wide)


def _mix_back(above: Tensor, projected: Tensor, tile: Tile, plan: Plan) -> Tensor:
    """Gradient of `_mix`: (s l) (a e) of the mixed values -> (s l) (three a e)."""
    shape = (tile.stop - tile.start, tile.length, 3, plan.heads, -1)
    query, key, value = projected.view(shape).unbind(dim=2)
    below = torch.empty_like(projected).view(shape)
    above = above.view(*shape[:2], plan.heads, -1)
    for head in range(plan.heads):
        part, keys = above[:, :, head], key[:, :, head]
        share = _share(query[:, :, head], keys, tile)
        torch.bmm(share.to(plan.dtype).transpose(1, 2), part, out=below[:, :, 2, head])
        of_share = torch.bmm(part, value[:, :, head].transpose(1, 2)).to(share.dtype)
        of_scores = aten._softmax_backward_data(of_share, share, -1, share.dtype).mul_(query.shape[-1] ** -0.5)
        of_scores = of_scores.to(plan.dtype)
        torch.bmm(of_scores, keys, out=below[:, :, 0, head])
        torch.bmm(of_scores.transpose(1, 2), query[:, :, head], out=below[:, :, 1, head])
    return below.flatten(2).flatten(0, 1)
