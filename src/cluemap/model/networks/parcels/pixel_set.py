"""The pixel-set encoder: pixels of a date in any order -> one vector (METHOD section 17)."""

import torch
from einops import rearrange
from torch import Tensor, nn

from cluemap.model.networks.parcels.row_norm import RowLayer

WIDTHS = (32, 64)  # of the layers that every pixel passes
OUT = 128
SMALLEST = 1e-12  # added to a variance before its root: a parcel of alike pixels has a gradient


class PixelSetEncoder(nn.Module):
    """Each pixel through two small layers; mean and standard deviation over the pixels; geometry joined; one layer.

    Pixels that were not seen on a date are never computed: they change neither the means nor the normalisation.
    """

    def __init__(self, bands: int, geometry: int):
        super().__init__()
        self.pixel = nn.Sequential(RowLayer(bands, WIDTHS[0]), RowLayer(WIDTHS[0], WIDTHS[1]))
        self.joined = RowLayer(2 * WIDTHS[1] + geometry, OUT, last=True)

    def forward(self, pixels: Tensor, seen: Tensor, geometry: Tensor) -> Tensor:
        """pixels b s t c, seen b s t, geometry b g -> b t 128. A date without a pixel gives 0."""
        parcels, _, dates, _ = pixels.shape
        flat = rearrange(pixels, "b s t c -> b t s c")
        there = rearrange(seen, "b s t -> b t s")
        vectors = self.pixel(flat[there])  # n c
        place = torch.arange(parcels * dates, device=pixels.device).view(parcels, dates, 1).expand_as(there)[there]
        count = there.sum(dim=2).view(-1)  # of each parcel's date
        pooled = torch.cat(pooled_over(vectors, place, count), dim=1)
        some = count > 0
        about = geometry.repeat_interleave(dates, dim=0)
        found = self.joined(torch.cat([pooled[some], about[some].to(pooled.dtype)], dim=1))
        out = found.new_zeros(parcels * dates, OUT)
        out[some] = found
        return out.view(parcels, dates, OUT)


def pooled_over(vectors: Tensor, place: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """vectors n c, the set 0..m-1 of each (n), pixels of each set (m) -> mean, unbiased standard deviation: m c each.

    A set of one pixel has the deviation 0.
    """
    mean = _sums(vectors, place, len(count)) / count.clamp_min(1)[:, None]
    squares = _sums((vectors - mean[place]) ** 2, place, len(count))
    variance = squares / (count - 1).clamp_min(1)[:, None]
    return mean, torch.sqrt(variance + SMALLEST)


def _sums(vectors: Tensor, place: Tensor, sets: int) -> Tensor:
    return vectors.new_zeros(sets, vectors.shape[1]).index_add(0, place, vectors)
