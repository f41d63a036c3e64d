"""What a finished map is written as: a valid Cloud-Optimised GeoTIFF, parcels, style, preview."""

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from rasterio.crs import CRS

from cluemap.data.patches import CropClass, Legend
from cluemap.data.scenes.grid import Grid
from cluemap.mapping.geotiff import write_cog
from cluemap.mapping.map_canvas import Canvas
from cluemap.mapping.map_styling import write_preview
from cluemap.mapping.parcels.parcels import per_parcel

CROPS = (CropClass("wheat & rye", "#ff7f0e"), CropClass("<corn>", "#2ca02c"))
LEGEND = Legend(("B02", "B03", "B04"), (2, 1, 0), CROPS, False)
GRID = Grid(CRS.from_epsg(32632), 600000.0, 5790240.0, 10.0, 1100, 1300)


@pytest.fixture
def canvas(tmp_path):
    canvas = Canvas(tmp_path / "canvas", GRID.height, GRID.width, {"classes": 1, "confidence": 1}, {"a": 1})
    blocks = np.random.default_rng(0).integers(1, 3, (110, 130)).astype(np.uint8)
    classes = np.kron(blocks, np.ones((10, 10), np.uint8))
    classes[:100, :200] = 255
    confidence = np.where(classes == 255, 255, 60).astype(np.uint8)
    canvas.fill(0, slice(0, 1100), slice(0, 1300), {"classes": classes[None], "confidence": confidence[None]})
    return canvas


def test_a_cog_is_laid_out_as_the_format_wants(canvas, tmp_path):
    """The rules of GDAL's own validator: tiles, overviews by halves, directories before pixels, small ones first."""
    out = tmp_path / "map.tif"
    write_cog(canvas, "classes", GRID, out, ["crop"], LEGEND)
    with rasterio.open(out) as file:
        np.testing.assert_array_equal(file.read(1), canvas.open("classes")[0])
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert file.block_shapes == [(512, 512)]
        assert file.overviews(1) == [2, 4]
        directories = [int(file.get_tag_item("IFD_OFFSET", "TIFF", 1))]
        pixels = [first_block(file, None)]
        for level in range(2):
            directories.append(int(file.get_tag_item("IFD_OFFSET", "TIFF", 1, level)))
            pixels.append(first_block(file, level))
        assert directories == sorted(directories)
        assert pixels == sorted(pixels, reverse=True)  # the smallest overview's come first
        assert max(directories) < min(pixels)
        assert directories[0] < 300  # after the header and GDAL's own note
        assert file.tags(1) == {**file.tags(1), "class_1": "wheat & rye", "class_2": "<corn>"}
        assert file.colormap(1)[1] == (255, 127, 14, 255)
    with rasterio.open(out, overview_level=1) as small:
        assert set(np.unique(small.read(1))) == {1, 2, 255}  # classes, not means of their numbers


def first_block(file, level):
    """The lowest offset of the pixels of a level (None: the full image)."""
    shape = file.shape if level is None else [-(-side // 2 ** (level + 1)) for side in file.shape]
    places = [(x, y) for y in range(-(-shape[0] // 512)) for x in range(-(-shape[1] // 512))]
    found = [file.get_tag_item(f"BLOCK_OFFSET_{x}_{y}", "TIFF", 1, level) for x, y in places]
    return min(int(offset) for offset in found if offset)


def test_parcels_over_several_strips(canvas):
    """One over the edge of two strips, one on land that was never seen, one of two parts."""
    left, top = GRID.left, GRID.top
    boxes = [
        shapely.box(left + 3000, top - 10400, left + 3100, top - 10000),
        shapely.box(left, top - 500, left + 500, top),
        shapely.MultiPolygon(
            [shapely.box(left + 5000 + d, top - 6010, left + 5050 + d, top - 6000) for d in (0, 2000)]
        ),
    ]
    table = per_parcel(canvas, GRID, LEGEND, gpd.GeoDataFrame(geometry=boxes, crs="EPSG:32632"))
    classes = canvas.open("classes")[0]
    inside = [classes[1000:1040, 300:310], classes[:50, :50], np.r_[classes[600, 500:505], classes[600, 700:705]]]
    for (_, row), pixels in zip(table.iterrows(), inside, strict=True):
        counts = [int((pixels == number).sum()) for number in (1, 2)]
        assert row["pixels"] == sum(counts)
        assert row["ha <corn>"] == pytest.approx(counts[1] / 100)
        assert pd.isna(row["majority"]) if not sum(counts) else row["majority"] == CROPS[int(np.argmax(counts))].name
        assert row["confidence"] == (60 if sum(counts) else 0)


def test_the_preview_shows_the_map_and_its_classes(canvas, tmp_path):
    out = tmp_path / "map.tif"
    write_cog(canvas, "classes", GRID, out, ["crop"], LEGEND)
    with rasterio.open(write_preview(out, LEGEND, {"wheat & rye": 3.0, "<corn>": 0.0})) as picture:
        colours = picture.read()[:3].reshape(3, -1).T
    assert (colours == [255, 127, 14]).all(axis=1).mean() > 0.1
