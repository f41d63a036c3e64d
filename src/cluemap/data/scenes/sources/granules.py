"""What images are made of: layers (one band of one file), and granules (what was seen of one tile at one time)."""

from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

from cluemap.data.scenes.scene_file import NAME, Images
from cluemap.errors import DataError

SCALE = 0.0001  # reflectance of stored value 1, where nothing else is said
MASK = "SCL"  # scene classification of L2A products


@dataclass(frozen=True)
class Layer:
    """One band of one file, and what its values mean: reflectance = value * scale + offset."""

    path: Path  # the file on this disk whose size and time tell whether the layer is still the same
    number: int  # band within the file, from 1
    scale: float | None = None  # None: what the file's own tags say, else SCALE
    offset: float | None = None  # None: what the file's own tags say, else 0
    nodata: float | None = None  # None: what the file says, else 0
    address: str = ""  # what GDAL opens instead of `path`: a member of an archive, an address on the web

    @property
    def source(self) -> str:
        """What GDAL opens."""
        return self.address or str(self.path)

    def scaled(self, scale: float, offset: float) -> "Layer":
        """With the file's own scale and offset where none are given."""
        return replace(
            self,
            scale=scale if self.scale is None else self.scale,
            offset=offset if self.offset is None else self.offset,
        )


@dataclass(frozen=True)
class Granule:
    """What was seen of one tile on one date."""

    day: date
    tile: str  # "" where the region is no mosaic of Sentinel-2 tiles
    bands: dict[str, Layer]  # those of images.bands that it has
    mask: Layer | None
    name: Path = field(compare=False)  # for messages
    sensing: str = ""  # start of the datatake: equal in two products of one overpass; "" = not known
    version: tuple[int, str] = (-1, "")  # processing baseline (0208 -> 208) and time of production

    @property
    def layers(self) -> list[Layer]:
        return [*self.bands.values(), *([self.mask] if self.mask else [])]


def chosen(images: Images, layer: Layer, offset: float | None = None) -> Layer:
    """What scene.yaml says of the values comes first, then a table's `offset`, then what the product says."""
    own = layer.offset if offset is None else offset
    return replace(
        layer,
        scale=layer.scale if images.scale is None else images.scale,
        offset=own if images.offset is None else images.offset,
        nodata=images.nodata if images.nodata is not None else layer.nodata,
    )


def check_bands(images: Images, granules: list[Granule]) -> list[str]:
    """What to say of bands that some images lack: they are no data on those dates.

    Raises:
        DataError: no image has the band, or an image has none of the bands.
    """
    said = []
    for band in images.bands:
        lacking = [granule for granule in granules if band not in granule.bands]
        if len(lacking) == len(granules):
            raise DataError(
                f"no image has band {band} (looked at {len(granules)}, e.g. {granules[0].name}, which has "
                f"{', '.join(granules[0].bands) or 'none of images.bands'}): fetch the band, or correct images.bands "
                f"(and images.file_bands) in {NAME}"
            )
        if lacking:
            said.append(
                f"band {band} is missing from {len(lacking)} of {len(granules)} images (e.g. {lacking[0].name.name}): "
                "it counts as no data there"
            )
    empty = next((granule for granule in granules if not granule.bands), None)
    if empty:
        raise DataError(f"{empty.name} has none of images.bands: take it out, or fetch it again")
    return said
