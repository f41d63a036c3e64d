"""The temporal attention encoder (TAE) of PSE-TAE: dates of a parcel -> one vector (METHOD section 17)."""

import math

import torch
from einops import einsum, rearrange
from torch import Tensor, nn

from cluemap.data.series_features import YEAR
from cluemap.model.networks.parcels.row_norm import RowLayer, RowNorm

HEADS, KEY = 4, 32  # heads, and the width of each one's query and key
OUT = 128
PERIOD = 1000.0  # T of the sinusoids, days
ATTENTION_DROPOUT = 0.1
NEVER = -1e30  # score of a date that is not there; finite, so that a parcel without dates gives numbers


class TemporalAttentionEncoder(nn.Module):
    """Four heads whose query is the mean of the dates' projections; values are the dates' vectors themselves."""

    def __init__(self, width: int, dropout: float, middle: float | None = None):
        """`middle`: see `moved`; None: days are taken as they are counted."""
        super().__init__()
        self.middle = middle
        self.norm = nn.LayerNorm(width)
        self.query, self.key = nn.Linear(width, HEADS * KEY), nn.Linear(width, HEADS * KEY)
        self.master = nn.Sequential(RowNorm(HEADS * KEY), nn.Linear(HEADS * KEY, HEADS * KEY))  # of the mean query
        self.attention_dropout = nn.Dropout(ATTENTION_DROPOUT)
        self.out = nn.Sequential(RowLayer(HEADS * width, OUT), RowLayer(OUT, OUT))
        self.dropout, self.last_norm = nn.Dropout(dropout), nn.LayerNorm(OUT)
        for linear in (self.query, self.key):
            nn.init.normal_(linear.weight, std=math.sqrt(2 / KEY))

    def forward(self, x: Tensor, day: Tensor, valid: Tensor) -> Tensor:
        """x b t d, day b t (rising, 1 = 1 January of any year, 0 = none), valid b t -> b 128. Any number of dates."""
        day = day if self.middle is None else moved(day, self.middle)
        x = self.norm(x) + positions(day, x.shape[-1])
        weight = valid.to(x.dtype)[:, :, None]
        mean = (self.query(x) * weight).sum(dim=1) / weight.sum(dim=1).clamp_min(1)
        query = rearrange(self.master(mean), "b (a e) -> b a e", a=HEADS)
        key = rearrange(self.key(x), "b t (a e) -> b t a e", a=HEADS)
        scores = einsum(query, key, "b a e, b t a e -> b a t") / math.sqrt(KEY)
        shares = scores.float().masked_fill(~valid[:, None], NEVER).softmax(dim=-1).to(x.dtype)
        mixed = einsum(self.attention_dropout(shares), x, "b a t, b t d -> b a d")
        return self.last_norm(self.dropout(self.out(rearrange(mixed, "b a d -> b (a d)"))))


def moved(day: Tensor, middle: float) -> Tensor:
    """Days b t, 0 = none -> b t: each series moved by whole years until its middle lies nearest to `middle`.

    Days are counted from the year of a series' first date: land that is first seen after New Year, or a scene of
    another season than the training's, counts from another year. The same rule as `series_features.years_apart`.
    """
    last = day.amax(dim=1)
    first = torch.where(day > 0, day, last[:, None]).amin(dim=1)
    years = (middle - (first + last) / 2).div(YEAR).round().long()
    return day + YEAR * years[:, None]


def positions(day: Tensor, width: int) -> Tensor:
    """b t -> b t d: sines (even d) and cosines of day / T ** (2 * (d // 2) / width)."""
    place = torch.arange(width, device=day.device)
    angle = day[..., None] / PERIOD ** (2 * (place // 2) / width)
    return torch.where(place % 2 == 0, angle.sin(), angle.cos())
