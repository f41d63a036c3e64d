"""The parcel networks `pse_tae` and `pse_ltae`: pixel sets, then dates, then classes (METHOD section 17)."""

import torch
from einops import rearrange
from torch import Tensor, nn

from cluemap.data.series_features import YEAR
from cluemap.model.networks.ltae import TemporalAttention
from cluemap.model.networks.parcels.pixel_set import OUT, PixelSetEncoder
from cluemap.model.networks.parcels.row_norm import RowLayer
from cluemap.model.networks.parcels.tae import TemporalAttentionEncoder
from cluemap.params import LtaeParams, ParcelParams

LTAE = {"width": OUT, "heads": 16, "key_width": 8, "value_width": 8, "convolutions": 0}


class LightEncoder(nn.Module):
    """The segmenter's L-TAE on one vector a date instead of a pixel's bands; days of the year have learned vectors."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.attention = TemporalAttention(width, LtaeParams(**LTAE, dropout=dropout), whitens=False)

    def forward(self, x: Tensor, day: Tensor, valid: Tensor) -> Tensor:
        """x b t d, day b t (from 1 = 1 January; 0 = none), valid b t -> b 128."""
        of_year = torch.where(day > 0, (day - 1) % YEAR + 1, 0)
        return rearrange(self.attention(x[..., None, None], of_year, valid), "b 1 1 d -> b d")


class ParcelNetwork(nn.Module):
    """One logit per class and parcel. A series may count from any year: TAE moves it (`moved`), L-TAE knows none."""

    def __init__(self, bands: int, geometry: int, classes: int, params: ParcelParams, middle: float | None = None):
        """`middle`: day in the middle of the training's season; None: days are taken as they are counted."""
        super().__init__()
        self.pixels = PixelSetEncoder(bands, geometry)
        self.dates: TemporalAttentionEncoder | LightEncoder
        if params.kind == "pse_tae":
            self.dates = TemporalAttentionEncoder(OUT, params.dropout, middle)
        else:
            self.dates = LightEncoder(OUT, params.dropout)
        self.classes = nn.Sequential(RowLayer(OUT, 64), RowLayer(64, 32), nn.Linear(32, classes))

    def forward(self, pixels: Tensor, seen: Tensor, day: Tensor, valid: Tensor, geometry: Tensor) -> Tensor:
        """pixels b s t c (normalised), seen b s t, day b t, valid b t, geometry b g (standardised) -> logits b k."""
        return self.classes(self.dates(self.pixels(pixels, seen, geometry), day, valid))
