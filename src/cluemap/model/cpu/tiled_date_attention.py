"""The part of `ltae` that touches every pixel and date, fast (25 dates: 14,400 vectors for a window of 24 x 24 pixels).

LayerNorm is never written out: weights whose mean over outputs is taken off make vectors of mean 0, and what is left
of the norm is one factor per date, which goes into the scores and into the attention. Its scale and shift act after
the mean over dates, at the caller.

On the CPU some pixels of a window (a tile) at a time go through it while they lie in the processor's cache, with a
gradient written by hand, since autograd passes over the vectors twice as often.
"""

from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

EPSILON = 1e-5  # of LayerNorm
TILE = 7300  # vectors a tile
NEVER = -1e30  # added to the score of a date that is not there; finite, so that a window without dates gives numbers
aten = torch.ops.aten


class Weights(NamedTuple):
    """What makes vectors of a pixel's bands, and what the heads ask of them."""

    first: Tensor  # d c
    first_bias: Tensor  # d
    second: Tensor  # d d
    asked: Tensor  # a d


def usable(images: Tensor) -> bool:
    """Whether windows may go through in tiles: on the CPU, not under autocast, and not while torch.compile looks on."""
    return images.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.is_autocast_enabled("cpu")


def mean_over_dates(images: Tensor, dates: Tensor, valid: Tensor, weights: Weights) -> Tensor:
    """images b t c h w, dates b t d, valid b t -> b h w a d: each head's mean over dates of normed vectors.

    The vector of a pixel and date is LayerNorm(second GELU(first bands + first_bias) + dates), without scale and
    shift; a head weights the dates by softmax(asked . vector), over those with `valid` alone.
    """
    height, count = images.shape[-2], images.shape[1] * images.shape[-2] * images.shape[-1]
    weights = weights._replace(second=weights.second - weights.second.mean(dim=0))
    dates = dates - dates.mean(dim=-1, keepdim=True)
    bias = torch.where(valid, 0.0, NEVER)  # b t
    pixels = rearrange(images, "b t c h w -> b (h w) t c")
    alone = pixels.shape[1] == 1  # one pixel a window: nothing to tile, and windows together are faster
    if alone or not usable(images):
        mean = forward(pixels, rearrange(dates, "b t d -> b 1 t d"), rearrange(bias, "b t -> b 1 1 t"), weights).mean
    else:
        mean = torch.stack([
            torch.cat([_Tile.apply(part.contiguous(), *about, *weights) for part in window.chunk(-(-count // TILE))])
            for window, *about in zip(pixels.unbind(), dates.unbind(), bias.unbind(), strict=True)
        ])  # fmt: skip
    return rearrange(mean, "b (h w) a d -> b h w a d", h=height)


class Passed(NamedTuple):
    """What `forward` comes by; `...` are pixels."""

    wide: Tensor  # ... t d, before GELU
    tokens: Tensor  # ... t d, of mean 0 over d
    scale: Tensor  # ... 1 t: the norm is tokens * scale
    scores: Tensor  # ... a t, of tokens before the norm
    attention: Tensor  # ... a t, sums to 1 over t
    mean: Tensor  # ... a d


def forward(series: Tensor, dates: Tensor, bias: Tensor, weights: Weights) -> Passed:
    """series ... t c, dates (t d) and bias (t) that broadcast to ..., weights centred -> see `Passed`."""
    wide = F.linear(series, weights.first, weights.first_bias)
    tokens = F.linear(F.gelu(wide), weights.second).add_(dates)
    exact = torch.promote_types(tokens.dtype, torch.float32)
    length = torch.linalg.vector_norm(tokens, dim=-1, dtype=exact)
    scale = (length.square() / tokens.shape[-1] + EPSILON).rsqrt().unsqueeze(-2)
    scores = weights.asked.to(tokens.dtype) @ tokens.transpose(-1, -2)
    attention = torch.addcmul(bias, scores, scale).softmax(dim=-1)
    return Passed(wide, tokens, scale, scores, attention, (attention * scale).to(tokens.dtype) @ tokens)


class _Tile(torch.autograd.Function):
    """`forward` of one window's pixels (series p t c, dates t d, bias t) -> p a d."""

    @staticmethod
    def forward(ctx: Any, series: Tensor, dates: Tensor, bias: Tensor, *parameters: Tensor) -> Tensor:
        passed = forward(series, dates, bias, Weights(*parameters))
        ctx.save_for_backward(series, *parameters, *passed[:-1])
        return passed.mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        series, first, _, second, asked, wide, tokens, scale, scores, attention = ctx.saved_tensors
        to_mixed = above @ tokens.transpose(1, 2)  # p a t; mixed = attention * scale
        to_attention = to_mixed * scale
        to_scaled = attention * (to_attention - (attention * to_attention).sum(dim=-1, keepdim=True))  # softmax
        to_scale = (to_mixed * attention).add_(to_scaled * scores).sum(dim=1)  # p t
        to_scores = to_scaled * scale
        to_tokens = (attention * scale).transpose(1, 2) @ above  # p t d
        flat = rearrange(to_tokens, "p t d -> (p t) d")  # a view
        flat.addmm_(rearrange(to_scores, "p a t -> (p t) a"), asked)
        along = to_scale * scale[:, 0] ** 3 / -tokens.shape[-1]  # by the length of tokens
        to_tokens.addcmul_(tokens, along[..., None])
        to_second = flat.T @ F.gelu(wide).flatten(0, 1)
        to_wide = aten.gelu_backward(flat @ second, wide.flatten(0, 1))
        return (
            (to_wide @ first).view_as(series) if ctx.needs_input_grad[0] else None,
            to_tokens.sum(dim=0),
            None,
            to_wide.T @ series.flatten(0, 1),
            to_wide.sum(dim=0),
            to_second,
            rearrange(to_scores, "p a t -> a (p t)") @ tokens.flatten(0, 1),
        )
