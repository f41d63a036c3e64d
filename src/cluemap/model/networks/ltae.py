"""The segmenter `ltae`: attention over the dates of every pixel, then 3x3 convolutions (METHOD section 14).

The temporal half is L-TAE (Sainte Fare Garnot and Landrieu 2020); its fast maths stands in
`cpu/tiled_date_attention`. There are no position vectors: the network runs on images of any size, and a pixel's logits
depend on the pixels up to `convolutions` rows and columns away.
"""

import torch
from einops import einsum, rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from cluemap.model.cpu.tiled_date_attention import EPSILON, Weights, mean_over_dates
from cluemap.model.networks.whitening import whitening_buffer
from cluemap.params import LtaeParams

DAYS = 367  # rows of the date table: day of year 1..366; row 0 is never used
DATE_SPREAD = 0.1  # amplitude at which date vectors start


class TemporalAttention(nn.Module):
    """Every pixel's series -> one vector: the mean over its dates, weighted by each head's attention."""

    whitening: Tensor | None

    def __init__(self, bands: int, params: LtaeParams, whitens: bool):
        super().__init__()
        d, heads = params.width, params.heads
        self.register_buffer("whitening", whitening_buffer(bands) if whitens else None)
        self.first = nn.Linear(bands, d)
        self.second = nn.Linear(d, d)
        self.dates = nn.Embedding(DAYS, d)
        self.norm = nn.LayerNorm(d, eps=EPSILON)
        self.query = nn.Parameter(torch.randn(heads, params.key_width))
        self.key = nn.Parameter(torch.randn(heads, params.key_width, d) * d**-0.5)  # a bias would change no attention
        self.value = nn.Parameter(torch.randn(heads, params.value_width, d) * d**-0.5)
        self.value_bias = nn.Parameter(torch.zeros(heads, params.value_width))
        self.out = nn.Sequential(
            nn.Linear(heads * params.value_width, d), nn.GELU(), nn.Dropout(params.dropout), nn.Linear(d, d)
        )
        self.dates.weight.data.copy_(DATE_SPREAD * seasons(d))

    def forward(self, images: Tensor, day: Tensor, valid: Tensor) -> Tensor:
        """images b t c h w, day b t, valid b t -> b h w d.

        A head's query is learned, so query and key fold into one vector a head; values are projected after the mean
        over dates, which is the same by linearity, once a pixel instead of once a date.
        """
        asked = einsum(self.query, self.key, self.norm.weight, "a e, a e d, d -> a d") * self.query.shape[1] ** -0.5
        first = self.first.weight if self.whitening is None else self.first.weight @ self.whitening
        weights = Weights(first, self.first.bias, self.second.weight, asked)
        mean = mean_over_dates(images, self.dates(day) + self.second.bias, valid, weights)  # b h w a d
        mean = mean * self.norm.weight + self.norm.bias
        values = einsum(mean, self.value, "b h w a d, a v d -> b h w a v") + self.value_bias
        return self.out(rearrange(values, "b h w a v -> b h w (a v)"))


def seasons(width: int) -> Tensor:
    """-> 367 d: sines and cosines of 1, 2, 3, .. turns a year; days that are near each other start alike."""
    day = torch.arange(DAYS)[:, None]
    turns = 1 + torch.arange(width) // 2
    angle = 2 * torch.pi * day * turns / (DAYS - 1)
    return torch.where(torch.arange(width) % 2 == 0, angle.sin(), angle.cos())


class ConvolutionBlock(nn.Module):
    """x + dropout(GELU(3x3 convolution of LayerNorm(x))); the norm is over the channels of a pixel."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.convolution = nn.Conv2d(width, width, 3, padding=1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """b h w d -> b h w d."""
        normed = rearrange(self.norm(x), "b h w d -> b d h w")  # a view, channels last in memory
        return x + self.dropout(F.gelu(rearrange(self.convolution(normed), "b d h w -> b h w d")))


class LtaeSegmenter(nn.Module):
    """One logit per class and pixel. `classes` counts the background where the data set has one."""

    def __init__(self, bands: int, classes: int, params: LtaeParams, whitens: bool = False):
        super().__init__()
        self.reach = params.convolutions  # pixels that a pixel's logits see to each side
        self.temporal = TemporalAttention(bands, params, whitens)
        blocks = (ConvolutionBlock(params.width, params.dropout) for _ in range(params.convolutions))
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(params.width, eps=EPSILON)
        self.head = nn.Linear(params.width, classes)

    def forward(self, images: Tensor, day: Tensor, valid: Tensor) -> Tensor:
        """images b t c h w (normalised), day b t, valid b t -> logits b k h w."""
        return self.classify(self.features(images, day, valid))

    def features(self, images: Tensor, day: Tensor, valid: Tensor) -> Tensor:
        """images b t c h w, day b t, valid b t -> b d h w: what the head is given of each pixel."""
        return self.mixed(self.temporal(images, day, valid))

    def mixed(self, pixels: Tensor) -> Tensor:
        """b h w d -> b d h w: every pixel's vector through the convolutions."""
        return rearrange(self.norm(self.blocks(pixels)), "b h w d -> b d h w")

    def classify(self, features: Tensor) -> Tensor:
        """What `features` gave, b d h w -> logits b k h w."""
        return rearrange(self.head(rearrange(features, "b d h w -> b h w d")), "b h w k -> b k h w")
