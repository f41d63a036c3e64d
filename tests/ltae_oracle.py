"""The segmenter `ltae` written plainly: one window, one pixel and one date at a time, every projection in full.

For tests alone. It imports nothing of the fast one and reads the weights by their names.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = dict[str, Tensor]


def temporal(images: Tensor, day: Tensor, valid: Tensor, weights: Weights) -> Tensor:
    """images b t c h w, day b t, valid b t -> b d h w: the temporal half alone."""
    windows = []
    for series, days, seen in zip(images, day, valid, strict=True):
        rows = []
        for row in range(series.shape[2]):
            pixels = [_pixel(series[:, :, row, column], days, seen, weights) for column in range(series.shape[3])]
            rows.append(torch.stack(pixels))  # w d
        windows.append(torch.stack(rows).permute(2, 0, 1))
    return torch.stack(windows)


def features(images: Tensor, day: Tensor, valid: Tensor, weights: Weights) -> Tensor:
    """images b t c h w, day b t, valid b t -> b d h w: after the convolutions and the last norm."""
    x = temporal(images, day, valid, weights)
    block = 0
    while f"blocks.{block}.convolution.weight" in weights:
        name = f"blocks.{block}."
        normed = _norm_channels(x, weights[name + "norm.weight"], weights[name + "norm.bias"])
        x = x + F.gelu(_convolved(normed, weights[name + "convolution.weight"], weights[name + "convolution.bias"]))
        block += 1
    return _norm_channels(x, weights["norm.weight"], weights["norm.bias"])


def logits(images: Tensor, day: Tensor, valid: Tensor, weights: Weights) -> Tensor:
    """images b t c h w, day b t, valid b t -> b k h w."""
    found = features(images, day, valid, weights)
    columns = [
        weights["head.bias"][k] + (found * w[None, :, None, None]).sum(dim=1)
        for k, w in enumerate(weights["head.weight"])
    ]
    return torch.stack(columns, dim=1)


def _pixel(series: Tensor, days: Tensor, seen: Tensor, weights: Weights) -> Tensor:
    """series t c, days t, seen t -> d."""
    name = "temporal."
    tokens = []
    for bands, day, there in zip(series, days.tolist(), seen.tolist(), strict=True):
        if not there:
            continue
        wide = F.gelu(
            weights[name + "first.weight"] @ (weights[name + "whitening"] @ bands) + weights[name + "first.bias"]
        )
        token = (
            weights[name + "second.weight"] @ wide + weights[name + "second.bias"] + weights[name + "dates.weight"][day]
        )
        tokens.append(_norm(token, weights[name + "norm.weight"], weights[name + "norm.bias"]))
    mixed = []
    for query, key, value, bias in zip(
        *(weights[name + part] for part in ("query", "key", "value", "value_bias")), strict=True
    ):
        scores = torch.stack([query @ (key @ token) / math.sqrt(len(query)) for token in tokens])
        shares = torch.exp(scores - scores.max())
        shares = shares / shares.sum()
        mixed.append(sum(share * (value @ token + bias) for share, token in zip(shares, tokens, strict=True)))
    hidden = F.gelu(weights[name + "out.0.weight"] @ torch.cat(mixed) + weights[name + "out.0.bias"])
    return weights[name + "out.3.weight"] @ hidden + weights[name + "out.3.bias"]


def _norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    centred = x - x.mean()
    return centred / torch.sqrt((centred**2).mean() + 1e-5) * scale + shift


def _norm_channels(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    centred = x - x.mean(dim=1, keepdim=True)
    normed = centred / torch.sqrt((centred**2).mean(dim=1, keepdim=True) + 1e-5)
    return normed * scale[None, :, None, None] + shift[None, :, None, None]


def _convolved(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A 3x3 convolution as nine shifted products; outside the image is 0."""
    height, width = x.shape[2:]
    padded = F.pad(x, [1, 1, 1, 1])
    out = bias[None, :, None, None].expand(len(x), -1, height, width)
    for row in range(3):
        for column in range(3):
            part = padded[:, :, row : row + height, column : column + width]
            out = out + torch.einsum("oi,bihw->bohw", weight[:, :, row, column], part)
    return out
