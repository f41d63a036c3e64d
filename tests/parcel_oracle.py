"""PSE and TAE written plainly: one parcel, one date, one head at a time, every projection in full.

For tests alone. It imports nothing of the fast ones and reads the weights by their names; batch norms stand at their
running means, as at test.
"""

import math

import torch
from torch import Tensor

Weights = dict[str, Tensor]


def logits(parcels: list[tuple[Tensor, Tensor, Tensor, Tensor]], weights: Weights) -> Tensor:
    """Parcels as (pixels s t c, seen s t, day t, geometry g), none padded -> n k."""
    rows = []
    for pixels, seen, day, geometry in parcels:
        dates = [_date(pixels[seen[:, t], t], geometry, weights) for t in range(len(day)) if seen[:, t].any()]
        days = [day[t].item() for t in range(len(day)) if seen[:, t].any()]
        x = _tae(dates, days, weights)
        for layer in ("classes.0.", "classes.1."):
            x = _layer(x, layer, weights).clamp_min(0)
        rows.append(weights["classes.2.weight"] @ x + weights["classes.2.bias"])
    return torch.stack(rows)


def _date(pixels: Tensor, geometry: Tensor, weights: Weights) -> Tensor:
    """s c, g -> 128: PSE of the pixels that were seen on one date."""
    found = []
    for pixel in pixels:
        for layer in ("pixels.pixel.0.", "pixels.pixel.1."):
            pixel = _layer(pixel, layer, weights).clamp_min(0)
        found.append(pixel)
    count = len(found)
    mean = sum(found) / count
    deviation = torch.zeros_like(mean)
    if count > 1:
        deviation = torch.sqrt(sum((pixel - mean) ** 2 for pixel in found) / (count - 1))
    return _layer(torch.cat([mean, deviation, geometry]), "pixels.joined.", weights)


def _tae(dates: list[Tensor], days: list[int], weights: Weights) -> Tensor:
    """TAE with 4 heads of key width 32."""
    tokens = []
    for vector, day in zip(dates, days, strict=True):
        place = torch.zeros(128)
        for d in range(128):
            angle = day / 1000 ** (2 * (d // 2) / 128)
            place[d] = math.sin(angle) if d % 2 == 0 else math.cos(angle)
        tokens.append(_normed(vector, "dates.norm.", weights) + place)
    asked = [weights["dates.query.weight"] @ token + weights["dates.query.bias"] for token in tokens]
    master = _batch_norm(sum(asked) / len(asked), "dates.master.0.", weights)
    master = weights["dates.master.1.weight"] @ master + weights["dates.master.1.bias"]
    keys = [weights["dates.key.weight"] @ token + weights["dates.key.bias"] for token in tokens]
    mixed = []
    for head in range(4):
        part = slice(32 * head, 32 * head + 32)
        scores = torch.stack([master[part] @ key[part] / math.sqrt(32) for key in keys])
        shares = torch.exp(scores) / torch.exp(scores).sum()
        mixed.append(sum(share * token for share, token in zip(shares, tokens, strict=True)))
    x = torch.cat(mixed)
    for layer in ("dates.out.0.", "dates.out.1."):
        x = _layer(x, layer, weights).clamp_min(0)
    return _normed(x, "dates.last_norm.", weights)


def _layer(x: Tensor, name: str, weights: Weights) -> Tensor:
    return _batch_norm(weights[name + "0.weight"] @ x + weights[name + "0.bias"], name + "1.", weights)


def _batch_norm(x: Tensor, name: str, weights: Weights) -> Tensor:
    scaled = (x - weights[name + "running_mean"]) / torch.sqrt(weights[name + "running_var"] + 1e-5)
    return scaled * weights[name + "weight"] + weights[name + "bias"]


def _normed(x: Tensor, name: str, weights: Weights) -> Tensor:
    centred = x - x.mean()
    scaled = centred / torch.sqrt((centred**2).mean() + 1e-5)
    return scaled * weights[name + "weight"] + weights[name + "bias"]
