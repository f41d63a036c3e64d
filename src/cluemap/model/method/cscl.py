"""Context-self contrastive loss: a pixel's embedding is to be like its neighbours' of the same class and unlike the
others' (METHOD section 15; Tarasiou et al. 2021).

A context is the `window` x `window` pixels around a pixel, `dilation` apart; its places j run row by row, the pixel
itself in their middle. `stride` leaves out centres: h' = ceil(h / stride).
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from einops import einsum, rearrange
from torch import Tensor
from torch.nn import functional as F

from cluemap.model.method.losses import Total, identity
from cluemap.params import CsclParams

UNLABELLED, OUTSIDE = 255, -1  # in a mask; around it
SMALLEST = 1e-12  # of a squared length: a zero vector is like nothing


class Pairs(NamedTuple):
    """Of every centre with every place of its context."""

    alike: Tensor  # bool b j h' w': of one class
    counted: Tensor  # bool b j h' w'


def similarities(query: Tensor, key: Tensor, rows: Tensor, columns: Tensor, params: CsclParams) -> Tensor:
    """query, key b d h w, rows window e, columns window d-e -> b j h' w': cosine of a centre's query with its context's
    keys.

    Before the cosine `rows` is added to the first e channels of a key, by its row in the context, and `columns` to the
    others; outside the image a key is 0. The keys with their positions are never formed: products and lengths are
    sums of parts, so memory is that of a few maps, whatever the window.
    """
    e = rows.shape[1]
    around = F.pad(key, [_reach(params)] * 4)
    asked = query[..., :: params.stride, :: params.stride]  # b d h' w'
    asked_rows = einsum(asked[:, :e], rows, "b e h w, j e -> j b h w")
    asked_columns = einsum(asked[:, e:], columns, "b e h w, j e -> j b h w")
    held_rows = einsum(around[:, :e], rows, "b e h w, j e -> j b h w")
    held_columns = einsum(around[:, e:], columns, "b e h w, j e -> j b h w")
    lengths, row_lengths, column_lengths = (x.square().sum(dim=1) for x in (around, rows, columns))
    size = query.shape[-2:]
    found = []
    for row, column, there in _places(size, params):
        along = (asked * there(around)).sum(dim=1) + asked_rows[row] + asked_columns[column]
        length = there(lengths) + 2 * (there(held_rows[row]) + there(held_columns[column]))
        found.append(along * (length + row_lengths[row] + column_lengths[column]).clamp_min(SMALLEST).rsqrt())
    return torch.stack(found, dim=1) * asked.square().sum(dim=1, keepdim=True).clamp_min(SMALLEST).rsqrt()


def pairs(mask: Tensor, params: CsclParams) -> Pairs:
    """mask b h w (255 = no class) -> which pairs are of one class, and which count.

    All count as published: the centre with itself, what is outside the image as another class, 255 as a class of its
    own. `masked`: only pairs of two pixels that both lie in the image and have a class; with pseudo masks these are
    the pixels they are sure of.
    """
    around = F.pad(mask, [_reach(params)] * 4, value=OUTSIDE)
    near = torch.stack([there(around) for _, _, there in _places(mask.shape[-2:], params)], dim=1)
    centre = rearrange(mask[..., :: params.stride, :: params.stride], "b h w -> b 1 h w")
    counted = torch.ones_like(near, dtype=torch.bool)
    if params.masked:
        counted = (near != OUTSIDE) & (near != UNLABELLED) & (centre != UNLABELLED)
        counted[:, params.window**2 // 2] = False
    return Pairs(near == centre, counted)


def context_loss(similar: Tensor, found: Pairs, positive_weight: float, total: Total = identity) -> Tensor:
    """b j h' w' -> scalar: mean over the pairs that count of s, where their classes differ, and else of
    -positive_weight s. Under several ranks this rank's share (see `losses`).
    """
    signed = torch.where(found.alike, -positive_weight * similar, similar)
    count = total(found.counted.sum().to(similar.dtype))
    return (signed * found.counted).sum() / count.clamp_min(1.0)


def _reach(params: CsclParams) -> int:
    return params.dilation * (params.window // 2)


class _There(NamedTuple):
    """Takes from a padded map what lies at one place of every centre's context; a view."""

    rows: slice
    columns: slice

    def __call__(self, around: Tensor) -> Tensor:
        return around[..., self.rows, self.columns]


def _places(size: torch.Size, params: CsclParams) -> Iterator[tuple[int, int, _There]]:
    """Row and column in the context, and what takes that place from a padded map of an image of `size`."""
    step, apart = params.stride, params.dilation
    for row in range(params.window):
        for column in range(params.window):
            top, left = row * apart, column * apart
            yield row, column, _There(slice(top, top + size[0], step), slice(left, left + size[1], step))
