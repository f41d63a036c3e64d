"""Polygons of a map: they are the map, whatever format they are written in."""

import sys

import geopandas as gpd
import numpy as np
import pytest
import shapely
from class_maps import LEFT, NAMES, PIXEL, TOP, VOID, blocks, write_map
from rasterio.features import rasterize
from rasterio.transform import Affine

import vectorise_map as script
from cluemap.errors import DataError
from cluemap.mapping.postprocessing.class_map import open_map
from cluemap.mapping.postprocessing.field_polygons import field_polygons, write_polygons


@pytest.fixture
def classes():
    found = blocks(60, 45, side=8)
    found[:9, :20] = VOID
    found[30, 30] = 3 - (found[30, 30] == 3)
    found[50:, :10] = 0
    return found


@pytest.fixture
def source(classes, tmp_path):
    return open_map(write_map(tmp_path / "map.tif", classes, names={0: "background", **NAMES}))


def test_drawn_again_they_are_the_map(source, classes):
    table = field_polygons(source, background=True)
    transform = Affine(PIXEL, 0, LEFT, 0, -PIXEL, TOP)
    drawn = rasterize(zip(table.geometry, table["class_id"], strict=True), classes.shape, VOID, transform=transform)
    np.testing.assert_array_equal(drawn, classes)
    for number, name in {0: "background", **NAMES}.items():
        pixels = int((classes == number).sum())
        assert table.loc[table["class"] == name, "hectares"].sum() == pytest.approx(pixels / 100)
    assert table["id"].is_unique


def test_specks_and_background_are_left_out(source):
    table = field_polygons(source, minimum=0.02)
    assert (table["hectares"] >= 0.02).all()
    assert len(table) == (field_polygons(source)["hectares"] >= 0.02).sum() < len(field_polygons(source))
    assert "background" not in set(table["class"])
    with pytest.raises(DataError, match="no patch of 1000 ha or more"):
        field_polygons(source, minimum=1000)


def test_straightened_borders_leave_no_gaps(tmp_path):
    """A slanting border becomes straight, and stays the same line for both fields."""
    rows, columns = np.mgrid[:50, :50]
    source = open_map(write_map(tmp_path / "map.tif", (1 + (columns > 15 + rows // 3)).astype(np.uint8)))
    plain, table = field_polygons(source), field_polygons(source, simplify=15)
    assert shapely.get_num_coordinates(table.geometry.values).sum() < shapely.get_num_coordinates(
        plain.geometry.values
    ).sum() / 3  # fmt: skip
    assert table.union_all().area == pytest.approx(plain.union_all().area)
    assert table.geometry[0].intersection(table.geometry[1]).area == pytest.approx(0)
    np.testing.assert_allclose(table["hectares"], table.area / 10_000)


@pytest.mark.parametrize("ending", ["gpkg", "parquet"])
def test_the_command(source, tmp_path, monkeypatch, capsys, ending):
    out = tmp_path / "new" / f"fields.{ending}"
    command = ["vectorise_map", "--map", str(source.file), "--out", str(out), "--minimum", "0.1"]
    monkeypatch.setattr(sys, "argv", command)
    assert script.main() == 0
    table = gpd.read_parquet(out) if ending == "parquet" else gpd.read_file(out, layer="fields")
    assert f"{len(table)} polygons" in capsys.readouterr().out
    assert table.crs.to_epsg() == 32632
    assert table.geometry.is_valid.all()
    np.testing.assert_array_equal(table["class_id"], field_polygons(source, 0.1)["class_id"])


def test_other_formats_are_refused(source, tmp_path):
    with pytest.raises(DataError, match=r"ends in \.gpkg or \.parquet"):
        write_polygons(tmp_path / "fields.shp", field_polygons(source))
