"""Summing a map up by parcels: each on its own, every row kept, no column lost, checked before the map is made."""

import logging

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from rasterio.crs import CRS

from cluemap.data.patches import CropClass, Legend
from cluemap.data.scenes.grid import Grid
from cluemap.errors import DataError
from cluemap.mapping.area_tables import hectares, write_tables
from cluemap.mapping.map_canvas import Canvas
from cluemap.mapping.parcels.parcels import per_parcel, read_parcels

LEGEND = Legend(("B04",), (0, 0, 0), (CropClass("wheat", "#ff7f0e"), CropClass("corn", "#2ca02c")), False)
GRID = Grid(CRS.from_epsg(32632), 600000.0, 5790240.0, 10.0, 40, 50)


@pytest.fixture
def classes():
    return np.kron(np.random.default_rng(0).integers(1, 3, (8, 10)), np.ones((5, 5))).astype(np.uint8)


@pytest.fixture
def canvas(tmp_path, classes):
    canvas = Canvas(tmp_path / "canvas", 40, 50, {"classes": 1, "confidence": 1}, {"a": 1})
    sure = np.full_like(classes, 60)
    canvas.fill(0, slice(0, 40), slice(0, 50), {"classes": classes[None], "confidence": sure[None]})
    return canvas


def box(row, column, height, width):
    left, top = GRID.left + 10 * column, GRID.top - 10 * row
    return shapely.box(left, top - 10 * height, left + 10 * width, top)


def table(*shapes, **columns):
    return gpd.GeoDataFrame({"name": [f"p{i}" for i in range(len(shapes))], **columns}, geometry=list(shapes),
                            crs="EPSG:32632")  # fmt: skip


def summed(parcels, canvas, tmp_path, ending="gpkg"):
    file = tmp_path / f"parcels.{ending}"
    parcels.to_file(file)
    return finished(file, canvas, tmp_path)


def finished(file, canvas, tmp_path):
    found = per_parcel(canvas, GRID, LEGEND, read_parcels(file, GRID, LEGEND, tmp_path / "map.tif"))
    write_tables(tmp_path / "map.tif", hectares(canvas, GRID, LEGEND), found)
    written = gpd.read_file(tmp_path / "map_parcels.gpkg")
    assert len(written) == len(found) == len(pd.read_csv(tmp_path / "map_parcels.csv"))
    return written


def test_overlapping_and_tiny_parcels_are_summed_on_their_own(canvas, classes, tmp_path):
    tiny = shapely.box(GRID.left + 121, GRID.top - 139, GRID.left + 123, GRID.top - 137)  # no pixel's centre
    found = summed(table(box(0, 0, 20, 20), box(5, 5, 10, 10), box(5, 5, 10, 10), tiny), canvas, tmp_path)
    for row, here in ((0, np.s_[:20, :20]), (1, np.s_[5:15, 5:15]), (2, np.s_[5:15, 5:15]), (3, np.s_[13:14, 12:13])):
        counts = np.bincount(classes[here].ravel(), minlength=3)
        assert found["pixels"][row] == counts.sum()
        assert found["ha wheat"][row] == pytest.approx(counts[1] / 100)
        assert found["majority"][row] == [None, "wheat", "corn"][int(counts.argmax())]
    assert found["pixel_rule"].tolist() == ["centre"] * 3 + ["touched"]


def test_every_row_is_kept_and_can_be_joined(canvas, tmp_path, caplog):
    shapes = [box(0, 0, 5, 5), None, shapely.box(0, 0, 9, 9), box(10, 10, 5, 5)]
    with caplog.at_level(logging.WARNING):
        found = summed(table(*shapes), canvas, tmp_path)
    assert found["source_row"].tolist() == [0, 1, 2, 3]
    assert found["name"].tolist() == ["p0", "p1", "p2", "p3"]
    assert found["pixels"].tolist() == [25, 0, 0, 25]
    assert found["majority"].isna().tolist() == [False, True, True, False]
    assert "2 of 4 parcels have no area on the map (1 off it, 1 without geometry)" in caplog.text


def test_columns_of_the_users_are_kept(canvas, tmp_path, caplog):
    mine = {"majority": ["a", "b"], "Pixels": [7, 8], "confidence": [1.5, 2.5], "FID": [5, 5], "source_row": [3, 4]}
    with caplog.at_level(logging.WARNING):
        found = summed(table(box(0, 0, 5, 5), box(9, 9, 3, 3), **mine), canvas, tmp_path, "geojson")
    assert found["pixels"].tolist() == [25, 9]
    assert found["majority"].isin(["wheat", "corn"]).all()
    for name, values in mine.items():
        assert found[f"{name}_input"].tolist() == values
        assert f"{name} -> {name}_input" in caplog.text


@pytest.mark.parametrize("name", ["geom", "GEOM", "fid", "ogc_fid", "Majority", "ha wheat", "geometry_", "NAME"])
def test_no_column_ends_in_a_traceback_after_the_map(canvas, tmp_path, name):
    found = summed(table(box(0, 0, 5, 5), box(9, 9, 3, 3), **{name: ["x", "y"]}), canvas, tmp_path, "geojson")
    assert [column for column in found if found[column].tolist() == ["x", "y"]]


def test_lists_and_nested_values(canvas, tmp_path):
    file = tmp_path / "parcels.geojson"
    file.write_text(table(box(0, 0, 5, 5), box(9, 9, 3, 3), tags=[["a", "b"], {"c": 1}]).to_json())
    assert len(finished(file, canvas, tmp_path)) == 2


def test_geoparquet_parcels(canvas, tmp_path):
    table(box(0, 0, 5, 5), shapely.box(0, 0, 5, 5), box(9, 9, 3, 3)).to_parquet(tmp_path / "parcels.parquet")
    found = finished(tmp_path / "parcels.parquet", canvas, tmp_path)
    assert found["pixels"].tolist() == [25, 0, 9]


def test_what_cannot_be_summed_is_refused_before(tmp_path):
    def refused(match, parcels, **options):
        parcels.to_file(tmp_path / "parcels.gpkg", **options)
        with pytest.raises(DataError, match=match):
            read_parcels(tmp_path / "parcels.gpkg", GRID, LEGEND, tmp_path / "map.tif")

    refused("none of its 1 features lies on the images", table(shapely.box(0, 0, 9, 9)))
    refused("no polygons on the map", table(shapely.Point(GRID.left + 50, GRID.top - 50)))
    refused(
        r"does not say its CRS: assign its CRS \(--parcels", table(box(0, 0, 5, 5)).set_crs(None, allow_override=True)
    )
