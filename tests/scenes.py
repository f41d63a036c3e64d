"""A synthetic region of the demo generator, written in every form in which users hold Sentinel-2 images."""

from dataclasses import dataclass
from datetime import date
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio
import rasterio.features
import shapely
from rasterio.transform import Affine
from ruamel.yaml import YAML

from cluemap.data.synthetic.generator_params import STANDARD
from cluemap.data.synthetic.region import make_tile, render

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
COARSE = ("B05", "B06", "B07", "B8A", "B11", "B12")  # 20 m
CROPS = {1: "meadow", 2: "soft winter wheat", 3: "corn", 4: "winter barley", 5: "winter rapeseed", 7: "sunflower",
         9: "beet", 13: "potatoes"}  # fmt: skip
DATES = ("2019-02-13", "2019-05-29", "2019-07-23")
LEFT, TOP = 600000.0, 5790240.0
CRSS = ("EPSG:32632", "EPSG:25833")
MASK = 3  # SCL: cloud shadow


@dataclass(frozen=True)
class Region:
    """Truth and images of h w pixels; ids 1..8 in the order of CROPS, 0 = background, 255 = void."""

    values: np.ndarray  # t c h w, reflectance x 10000; 20 m bands already brought to 10 m by `bilinear`
    coarse: np.ndarray  # t 6 h/2 w/2, the 20 m bands as they are
    clouds: np.ndarray  # t h/2 w/2, SCL: 4, MASK, or 0 outside the swath
    labels: np.ndarray  # h w
    parcels: np.ndarray  # h w


def make_region(height: int = 96, width: int = 120, dates: tuple[str, ...] = DATES, seed: int = 3) -> Region:
    days = np.array(dates, "datetime64[D]")
    scene = render(height, width, make_tile(days, (seed, 0), STANDARD), (seed, 1), difficulty=STANDARD)
    values = np.maximum(scene.images, 1).astype(np.int32)
    columns = [BANDS.index(band) for band in COARSE]
    coarse = values[:, columns].reshape(len(days), len(COARSE), height // 2, 2, width // 2, 2).mean(axis=(3, 5))
    coarse = np.rint(coarse).astype(np.int32)
    values[:, columns] = np.stack([[bilinear(band) for band in picture] for picture in coarse])
    clouds = np.full((len(days), height // 2, width // 2), 4, np.uint8)
    clouds[1, 5:20, 7:40] = MASK
    table = np.full(256, 255, np.uint8)
    table[[0, *CROPS]] = np.arange(len(CROPS) + 1)
    return Region(values, coarse, clouds, table[scene.labels], scene.parcels)


def bilinear(band: np.ndarray) -> np.ndarray:
    """h/2 w/2 -> h w: twice as fine, corners held; half rounds up as GDAL does."""

    def along(x: np.ndarray) -> np.ndarray:
        before, after = np.concatenate([x[:1], x[:-1]]), np.concatenate([x[1:], x[-1:]])
        return np.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis=1).reshape(-1, x.shape[1])

    return np.floor(along(along(band.astype(float)).T).T + 0.5).astype(np.int32)


def write_raster(path: Path, bands, crs=CRSS[0], pixel=10.0, names=(), left=LEFT, top=TOP, **options) -> Path:
    bands = np.atleast_3d(bands) if np.ndim(bands) == 3 else np.asarray(bands)[None]
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jp2":
        options = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES", **options}
    count, height, width = bands.shape
    transform = Affine(pixel, 0, left, 0, -pixel, top)
    options = {"driver": "GTiff", **options}
    with rasterio.open(
        path, "w", height=height, width=width, count=count, dtype=bands.dtype, crs=crs, transform=transform, **options
    ) as file:
        file.write(bands)
        for number, name in enumerate(names, 1):
            file.set_band_description(number, name)
    return path


def write_safe(root: Path, region: Region, crs: str = CRSS[0], baseline: str = "0500", dates=DATES) -> Path:
    """Products trimmed to the bands at their finest and the SCL; from 04.00 on every value is 1000 higher."""
    added = 1000 if baseline >= "0400" else 0
    for number, day in enumerate(dates):
        when = f"{day.replace('-', '')}T102031"
        product = root / f"S2A_MSIL2A_{when}_N{baseline}_R065_T32UQD_{when}.SAFE"
        images = product / "GRANULE" / "L2A_T32UQD_A1" / "IMG_DATA"
        for index, band in enumerate(BANDS):
            if band in COARSE:
                values, metres = region.coarse[number, COARSE.index(band)], 20
            else:
                values, metres = region.values[number, index], 10
            path = images / f"R{metres}m" / f"T32UQD_{when}_{band}_{metres}m.jp2"
            write_raster(path, (values + added).astype(np.uint16), crs, metres)
        write_raster(images / "R20m" / f"T32UQD_{when}_SCL_20m.jp2", region.clouds[number], crs, 20)
    return root


def write_files(root: Path, region: Region, crs: str = CRSS[0], dates=DATES) -> Path:
    """One GeoTIFF a date, bands (and SCL) named, all at 10 m."""
    for number, day in enumerate(dates):
        mask = region.clouds[number].repeat(2, 0).repeat(2, 1)
        bands = np.concatenate([region.values[number], mask[None]]).astype(np.uint16)
        write_raster(root / f"region_{day}.tif", bands, crs, names=[*BANDS, "SCL"])
    return root


def write_folders(root: Path, region: Region, crs: str = CRSS[0], dates=DATES) -> Path:
    """One folder a date, one GeoTIFF a band at its own resolution."""
    for number, day in enumerate(dates):
        folder = root / day.replace("-", "")
        for index, band in enumerate(BANDS):
            coarse = band in COARSE
            values = region.coarse[number, COARSE.index(band)] if coarse else region.values[number, index]
            write_raster(folder / f"{band}.tif", values.astype(np.int16), crs, 20 if coarse else 10)
        write_raster(folder / "SCL.tif", region.clouds[number], crs, 20)
    return root


def write_fields(path: Path, region: Region, crs: str = CRSS[0], to: str | None = None, **options) -> Path:
    """Every run of labelled pixels as a polygon that follows the pixels' edges; column `crop`."""
    transform = Affine(10, 0, LEFT, 0, -10, TOP)
    known = (region.labels > 0) & (region.labels < 255)
    found = rasterio.features.shapes(region.labels, mask=known, transform=transform)
    shapes, ids = zip(*[(shapely.geometry.shape(shape), int(value)) for shape, value in found], strict=True)
    names = list(CROPS.values())
    table = gpd.GeoDataFrame({"crop": [names[number - 1] for number in ids]}, geometry=list(shapes), crs=crs)
    path.parent.mkdir(parents=True, exist_ok=True)
    (table.to_crs(to) if to else table).to_file(path, **options)
    return path


def write_points(path: Path, region: Region, places: list[tuple[int, int]]) -> Path:
    """CSV: pixel centres in WGS 84 and their crop."""
    names = list(CROPS.values())
    points = gpd.GeoSeries([shapely.Point(LEFT + 10 * c + 5, TOP - 10 * r - 5) for r, c in places], crs=CRSS[0])
    lon_lat = points.to_crs("EPSG:4326")
    crops = [names[region.labels[r, c] - 1] for r, c in places]
    pd.DataFrame({"lon": lon_lat.x, "lat": lon_lat.y, "crop": crops}).to_csv(path, index=False)
    return path


CLASSES = [{"name": name} for name in CROPS.values()]
LABELS = {"kind": "polygons", "file": "fields.gpkg", "column": "crop", "outside": "background"}
SPLIT = {"block": 480.0, "gap": 20.0, "seed": 1}


def write_scene(root: Path, images: dict, **blocks) -> Path:
    """scene.yaml; `images` is laid over the usual block, `blocks` over the others (None takes one out)."""
    tree = {
        "images": {"bands": list(BANDS), **images},
        "classes": CLASSES,
        "labels": LABELS,
        "split": SPLIT,
        **blocks,
    }
    root.mkdir(parents=True, exist_ok=True)
    with (root / "scene.yaml").open("w", encoding="utf-8") as handle:
        YAML().dump({name: block for name, block in tree.items() if block is not None}, handle)
    return root


def day_numbers(dates=DATES) -> list[int]:
    return [date.fromisoformat(day).timetuple().tm_yday for day in dates]
