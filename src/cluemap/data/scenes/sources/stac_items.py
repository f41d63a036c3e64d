"""Images as a STAC item collection or the result of a search (JSON): GeoTIFFs by address, here or on the web."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlparse

from cluemap.data.scenes.scene_file import NAME, Images
from cluemap.data.scenes.sources.granules import MASK, SCALE, Granule, Layer, chosen
from cluemap.errors import DataError
from cluemap.files import read_json

COMMON = {  # names that catalogues give to Sentinel-2's bands
    "coastal": "B01", "blue": "B02", "green": "B03", "red": "B04", "rededge1": "B05", "rededge2": "B06",
    "rededge3": "B07", "nir": "B08", "nir08": "B8A", "nir09": "B09", "swir16": "B11", "swir22": "B12", "scl": MASK,
}  # fmt: skip
SHIFTED = 4.0  # processing baseline from which values are 1000 higher
SCHEMES = {"http": "/vsicurl/", "https": "/vsicurl/", "s3": "/vsis3/", "gs": "/vsigs/"}


def find_items(file: Path, images: Images, notes: list[str]) -> Iterator[Granule]:
    """One granule an item.

    Raises:
        DataError: no item collection, an item without a date, or the package `pystac` is not installed.
    """
    try:
        import pystac
    except ImportError:
        raise DataError("images.kind: stac needs the package pystac: pip install 'cluemap[stac]'") from None
    if file.is_dir():
        raise DataError(f"{file} is a folder: let images.path in {NAME} name the JSON file of the items")
    content = read_json(file)
    try:
        items = list(pystac.ItemCollection.from_dict(content, preserve_dict=False, root=None))
    except (pystac.STACError, pystac.STACTypeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{file} is no STAC item collection ({error}): save the search's result as JSON") from None
    for item in items:
        if item.datetime is None:
            raise DataError(f"{file}: item {item.id} has no datetime: take it out")
        yield _granule(file, item, images)


def _granule(file: Path, item: Any, images: Images) -> Granule:
    layers: dict[str, Layer] = {}
    mask: Layer | None = None
    for key, asset in item.assets.items():
        band = _band(key, asset, images)
        if band in images.bands and band not in layers:
            layers[band] = chosen(images, _layer(file, item, asset))
        if band == MASK and images.hide and mask is None:
            place = _layer(file, item, asset)
            mask = Layer(place.path, 1, address=place.address)
    tile = str(item.properties.get("grid:code") or item.properties.get("s2:mgrs_tile") or "")
    version = (round(100 * _baseline(item)), str(item.properties.get("created") or ""))
    return Granule(item.datetime.date(), tile, layers, mask, file / item.id, _sensing(item.datetime), version)


def _band(key: str, asset: Any, images: Images) -> str:
    """The name of an asset's band, as scene.yaml says it: its key, what it says itself, or a common name."""
    told = (asset.extra_fields.get("bands") or asset.extra_fields.get("eo:bands") or [{}])[0]
    names = [key, str(told.get("name", ""))]
    names += [COMMON.get(name, "") for name in (key, str(told.get("name", "")))]
    wanted = [*images.bands, MASK]
    return next((name for name in names if name in wanted), "")


def _layer(file: Path, item: Any, asset: Any) -> Layer:
    """With the scale and offset that the item tells; of Sentinel-2 without them, by the processing baseline."""
    told = (asset.extra_fields.get("raster:bands") or asset.extra_fields.get("bands") or [{}])[0]
    scale, offset = told.get("raster:scale", told.get("scale")), told.get("raster:offset", told.get("offset"))
    if item.properties.get("earthsearch:boa_offset_applied"):
        scale, offset = scale or SCALE, 0.0  # the item still tells the product's own offset
    elif scale is None and offset is None and _baseline(item) >= SHIFTED:
        scale, offset = SCALE, -0.1
    number = None if scale is None else float(scale)
    shift = float(offset or 0.0) if number is not None else None
    path, address = _place(file, str(asset.href))
    return Layer(path, 1, number, shift, address=address)


def _place(file: Path, href: str) -> tuple[Path, str]:
    """The file on this disk that says whether it is the same, and what GDAL opens."""
    scheme = urlparse(href).scheme
    if scheme in ("http", "https"):
        return file, SCHEMES[scheme] + href
    if scheme in SCHEMES:
        return file, SCHEMES[scheme] + href.split("://", 1)[1]
    if scheme == "file":
        return Path(urlparse(href).path), ""
    return Path(urljoin(file.resolve().as_posix(), href)), ""


def _baseline(item: Any) -> float:
    told = item.properties.get("s2:processing_baseline") or item.properties.get("processing:version") or 0
    try:
        return float(told)
    except (TypeError, ValueError):
        return 0.0


def _sensing(when: datetime) -> str:
    return when.strftime("%Y%m%dT%H%M%S")
