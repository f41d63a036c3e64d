"""A trained parcel network as one file that needs nothing of this project: raw parcels in, probabilities out."""

from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from cluemap.data.patches import NODATA
from cluemap.model.networks.parcels.pixel_set import SMALLEST
from cluemap.model.storage.parcel_models import SCALES, ParcelModel, load_parcel_model

EXAMPLE = (2, 3, 5)  # parcels, pixels and dates that the network is traced with; all may then be any number


class FromRawParcels(nn.Module):
    """A parcel network at test with its normalisation in front and its temperature behind it.

    The pixel set is computed in full and masked: an exported network has no shapes that depend on values.
    """

    mean: Tensor
    std: Tensor
    geometry_mean: Tensor
    geometry_std: Tensor

    def __init__(self, model: ParcelModel):
        super().__init__()
        self.network, self.temperature = model.network, model.temperature
        self.masks = not model.params.published
        for name in SCALES:
            self.register_buffer(name, torch.from_numpy(getattr(model.scaling, name)))

    def forward(self, pixels: Tensor, days: Tensor, geometry: Tensor) -> Tensor:
        """pixels n s t c int16 (NODATA = not seen, also in pixels and dates that fill up), days n t int16 (0 = fills
        up), geometry n g float32, unscaled -> probabilities n k.
        """
        known = ~(pixels == NODATA).any(dim=3)  # n s t
        there = known.any(dim=2, keepdim=True) & (days > 0)[:, None]
        seen = known & (days > 0)[:, None] if self.masks else there
        images = ((pixels.float() - self.mean) / self.std).masked_fill(~known[..., None], 0.0)
        about = (geometry - self.geometry_mean) / self.geometry_std
        network = self.network
        dates = network.dates(self._pixel_sets(images, seen, about), days.long(), seen.any(dim=1))
        return (network.classes(dates) / self.temperature).softmax(dim=1)

    def _pixel_sets(self, images: Tensor, seen: Tensor, geometry: Tensor) -> Tensor:
        """n s t c, n s t, n g -> n t 128, as `PixelSetEncoder`."""
        parcels, pixels, dates, _ = images.shape
        encoder = self.network.pixels
        rows = encoder.pixel(rearrange(images, "n s t c -> (n s t) c"))
        vectors = rows.reshape(parcels, pixels, dates, rows.shape[1])
        there = seen[..., None].to(vectors.dtype)
        count = there.sum(dim=1)  # n t 1
        mean = (vectors * there).sum(dim=1) / count.clamp_min(1)
        squares = (((vectors - mean[:, None]) ** 2) * there).sum(dim=1)
        deviation = torch.sqrt(squares / (count - 1).clamp_min(1) + SMALLEST)
        about = geometry[:, None].expand(parcels, dates, geometry.shape[1])
        joined = torch.cat([mean, deviation, about], dim=2)
        out = encoder.joined(joined.reshape(parcels * dates, joined.shape[2])).reshape(parcels, dates, -1)
        return out * (count > 0).to(out.dtype)


def example(model: ParcelModel) -> dict[str, Tensor]:
    """Raw parcels as a registered model wants them."""
    parcels, pixels, dates = EXAMPLE
    middle = torch.from_numpy(model.scaling.mean).round().to(torch.int16)
    return {
        "pixels": middle.expand(parcels, pixels, dates, len(middle)).contiguous(),
        "days": torch.linspace(100, 200, dates).to(torch.int16).repeat(parcels, 1),
        "geometry": torch.from_numpy(model.scaling.geometry_mean).expand(parcels, -1).contiguous(),
    }


def export_parcels(file: Path, target: Path) -> ParcelModel:
    """Write the parcel network in `file` as the torch.export archive `target`; gives the model.

    Raises:
        CheckpointError: `file` is missing, damaged, or no parcel network.
    """
    model = load_parcel_model(file)
    free = torch.export.Dim.AUTO
    shapes = {"pixels": {0: free, 1: free, 2: free}, "days": {0: free, 1: free}, "geometry": {0: free}}
    with torch.no_grad():
        given = tuple(example(model).values())
        program = torch.export.export(FromRawParcels(model).eval(), given, dynamic_shapes=shapes)
    torch.export.save(program, target)
    return model
