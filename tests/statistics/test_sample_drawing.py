"""Samples: how many of each class, that each pixel has the same chance, and what is written."""

import sys

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pytest
from class_maps import VOID, blocks, write_map

import draw_sample as script
from cluemap.errors import DataError
from cluemap.mapping.postprocessing.class_map import open_map
from cluemap.statistics.sample_allocation import allocate
from cluemap.statistics.sample_drawing import draw_sample, write_sample


def test_rare_classes_get_the_minimum_and_the_rest_goes_by_area():
    assert allocate(np.array([20, 15, 320, 645]) * 10_000, 641, 75).tolist() == [75, 75, 163, 328]  # Olofsson, table 5
    assert allocate(np.array([1000, 3000]), 100, 2).tolist() == [25, 75]


def test_a_class_smaller_than_the_minimum_is_taken_whole():
    assert allocate(np.array([3, 10_000, 1]), 100, 20).tolist() == [3, 96, 1]


@pytest.mark.parametrize("seed", range(20))
def test_allocation_laws(seed):
    generator = np.random.default_rng(seed)
    sizes = generator.integers(1, 10 ** generator.integers(1, 7), generator.integers(1, 12))
    total = int(generator.integers(2 * len(sizes), max(2 * len(sizes) + 1, min(2000, sizes.sum()))))
    if total > sizes.sum():
        return
    drawn = allocate(sizes, total)
    assert drawn.sum() == total
    assert (drawn <= sizes).all()
    assert (drawn >= np.minimum(2, sizes)).all()


@pytest.mark.parametrize(
    ("total", "minimum", "text"),
    [(10_000, None, "more than the"), (100, 80, "--size 160"), (9, 1, "--minimum from 2 to 4")],
)
def test_impossible_samples_say_what_is_possible(total, minimum, text):
    with pytest.raises(DataError, match=text):
        allocate(np.array([1000, 500]), total, minimum)


@pytest.fixture
def source(tmp_path):
    classes = blocks(1200, 70)  # three strips of rows
    classes[:40, :30] = VOID
    return open_map(write_map(tmp_path / "map.tif", classes))


def test_units_lie_in_their_stratum_and_say_how_they_were_drawn(source):
    sample = draw_sample(source, 200, minimum=40, seed=3)
    rows, columns = source.pixels(sample.geometry.x.to_numpy(), sample.geometry.y.to_numpy())
    np.testing.assert_array_equal(source.values(rows, columns), sample["stratum"])
    assert len(set(zip(rows, columns, strict=True))) == 200
    for number, units in sample.groupby("stratum"):
        assert (units["stratum_pixels"] == source.counts[number]).all()
        assert (units["stratum_drawn"] == len(units)).all()
        np.testing.assert_allclose(units["inclusion_probability"], len(units) / source.counts[number])
    degrees = gpd.GeoSeries(gpd.points_from_xy(sample["lon"], sample["lat"]), crs=4326).to_crs(sample.crs)
    assert degrees.distance(sample.geometry).max() < 0.01
    assert not sample["stratum"].is_monotonic_increasing  # who labels in order meets all classes


@pytest.mark.slow
def test_every_pixel_has_the_chance_that_is_written_down(tmp_path):
    source = open_map(write_map(tmp_path / "map.tif", blocks(12, 10, side=4)))
    hits, draws = np.zeros((12, 10)), 400
    for seed in range(draws):
        sample = draw_sample(source, 30, minimum=5, seed=seed)
        rows, columns = source.pixels(sample.geometry.x.to_numpy(), sample.geometry.y.to_numpy())
        np.add.at(hits, (rows, columns), 1 / sample["inclusion_probability"])
    spread = np.sqrt(draws / (30 / 120))  # of a count of Bernoulli draws over its probability, roughly
    assert abs(hits - draws).max() < 5 * spread


def test_the_same_seed_gives_the_same_sample(source):
    pd.testing.assert_frame_equal(draw_sample(source, 60, seed=1), draw_sample(source, 60, seed=1))
    assert not draw_sample(source, 60, seed=1).geometry.equals(draw_sample(source, 60, seed=2).geometry)


def test_the_command_writes_a_geopackage_and_a_table(source, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["draw_sample", "--map", str(source.file), "--size", "90"])
    assert script.main() == 0
    assert "wheat" in capsys.readouterr().out
    out = tmp_path / "map_sample.gpkg"
    assert {row[0] for row in pyogrio.list_layers(out)} == {"sample", "pixels"}
    points, outlines = gpd.read_file(out, layer="sample"), gpd.read_file(out, layer="pixels")
    assert points.crs.to_epsg() == outlines.crs.to_epsg() == 32632
    assert (outlines.area == 100).all()
    assert outlines.contains(points.geometry).all()
    assert "wheat" not in points.to_csv()  # who labels does not see what the map says
    table = pd.read_csv(out.with_suffix(".csv"))
    assert table["id"].tolist() == points["id"].tolist()
    assert script.main() == 2  # labels may be in there by now
    assert "exists and may hold labels" in capsys.readouterr().err


def test_maps_in_degrees_are_refused(tmp_path):
    source = open_map(write_map(tmp_path / "map.tif", blocks(20, 20), crs="EPSG:4326"))
    with pytest.raises(DataError, match=r"EPSG:4326, where pixels have no one area.*gdalwarp"):
        draw_sample(source, 20)


def test_another_ending_is_refused(source, tmp_path):
    with pytest.raises(DataError, match=r"sample\.shp: give the sample's file, ending in \.gpkg"):
        write_sample(tmp_path / "sample.shp", draw_sample(source, 20), source)
