"""How unlike the training each pixel of a scene is: the layer behind `<map>_unlike.tif`."""

import numpy as np
import torch
from einops import repeat
from numpy.typing import NDArray

from cluemap.data.patches import NODATA
from cluemap.data.series_features import EVERY
from cluemap.errors import DataError
from cluemap.model.networks.pixel_segmenter import EvenSeries
from cluemap.model.storage.known_series import KnownSeries
from cluemap.statistics.unlikeness import Unlikeness

NEAR = EVERY / 2  # days: farther from a date of the scene an even day is interpolated more than seen
ROWS = 32  # of a tile, at once


class UnlikeTraining:
    """Holds the series of a scene with certain dates against those that the model was taught.

    Only at even days that are near a date of the scene: by others it would be unlike for its dates alone.
    """

    def __init__(self, known: KnownSeries, days: NDArray[np.int16], device: torch.device):
        """days: t, of the scene's dates in order.

        Raises:
            DataError: a model that was taught nothing; no date within the season that it was taught.
        """
        bands = known.taught.shape[1] // len(known.days)
        self.series = EvenSeries(torch.zeros(bands), torch.ones(bands), known.days).to(device)
        self.day = torch.from_numpy(days.astype(np.int64))[None].to(device)
        self.valid = torch.ones_like(self.day, dtype=torch.bool)
        dates = self.series.dates(self.day, self.valid)[0].cpu()
        near = (dates[:, None] - known.days).abs().amin(dim=0) <= NEAR
        if not near.any():
            raise DataError("--unlike: no date of the scene is within the season that the model was trained on")
        self.seen = repeat(near, "g -> (g c)", c=bands)
        taught, held = (part[:, self.seen].numpy() for part in (known.taught, known.held))
        self.measure = Unlikeness.of(taught, known.classes.numpy(), held).to(device)
        self.seen = self.seen.to(device)

    def __call__(self, images: NDArray[np.int16]) -> NDArray[np.uint8]:
        """t c h w -> h w, percent."""
        parts = [self._rows(images[:, :, top : top + ROWS]) for top in range(0, images.shape[2], ROWS)]
        return np.concatenate(parts)

    def _rows(self, images: NDArray[np.int16]) -> NDArray[np.uint8]:
        with torch.inference_mode():
            values = torch.from_numpy(np.where(images == NODATA, 0, images)).to(self.day.device).float()[None]
            pixels = self.series(values, self.day, self.valid)[:, self.seen]
            return self.measure.percent(pixels).cpu().numpy().reshape(images.shape[2:])
