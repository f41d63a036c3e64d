"""Parcels of a scene from a parcel network: the pixels of each, the oracle's crops, every row kept, honest refusals."""

import logging
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import torch
from parcel_models import SCALING, TEMPERATURE, write_parcel_model
from parcel_oracle import logits as oracle
from rasterio.crs import CRS

from cluemap.data.parcels.parcel import geometry_of
from cluemap.data.patches import NODATA
from cluemap.data.scenes.grid import Grid
from cluemap.errors import DataError
from cluemap.mapping.map_products import Order, make_map
from cluemap.mapping.map_sources import PatchImagery
from cluemap.mapping.parcels import parcel_map
from cluemap.mapping.raster_prediction import Settings

GRID = Grid(CRS.from_epsg(32632), 600000.0, 5790240.0, 10.0, 31, 41)
DAYS = np.array([300, 340, 5, 47, 90], np.int16)  # over the turn of the year
ON = [300, 340, 370, 412, 455]  # the same, counted on
MEAN, STD, OF_GEOMETRY, SPREAD = SCALING.values()


def place(row, column, height, width):
    left, top = GRID.left + 10 * column, GRID.top - 10 * row
    return shapely.box(left, top - 10 * height, left + 10 * width, top)


SHAPES = {
    "large": place(2, 3, 17, 23),
    "edged": place(1, 30, 3, 4).union(place(1, 30, 9, 2)),
    "over": place(4, 4, 5, 7),  # inside the first: each takes its own pixels
    "slanted": shapely.Polygon([(600200, 5790020), (600330, 5790040), (600290, 5789960)]),
    "tiny": shapely.box(GRID.left + 121, GRID.top - 249, GRID.left + 123, GRID.top - 247),  # no pixel's centre
    "unseen": place(25, 30, 2, 2),
    "far": place(900, 900, 5, 5),
    "nowhere": None,
    "edge": place(28, 38, 9, 9),  # 3 x 3 of it on the grid
    "one": place(22, 5, 1, 1),
}


@pytest.fixture
def images():
    generator = np.random.default_rng(0)
    found = generator.normal(1000, 400, (5, 3, 31, 41)).astype(np.int16)
    found += (generator.normal(0, 500, (5, 3, 1, 1)) * np.sin(np.arange(41) / 5)).astype(np.int16)
    hidden = generator.random((5, 31, 41)) < 0.2
    hidden[3, :, :20] = True
    hidden[:, 25:27, 30:32] = True
    found[hidden[:, None].repeat(3, axis=1)] = NODATA
    return found


@pytest.fixture
def model(tmp_path):
    weights = write_parcel_model(tmp_path / "model")
    return tmp_path / "model", {name: value.double() for name, value in weights.items()}


@pytest.fixture
def order(images, model, tmp_path, monkeypatch):
    imagery = PatchImagery(GRID, DAYS, [], images)
    monkeypatch.setattr(parcel_map, "open_source", lambda folder, legend, patch: imagery)
    file = tmp_path / "fields.gpkg"
    gpd.GeoDataFrame({"name": list(SHAPES)}, geometry=list(SHAPES.values()), crs="EPSG:32632").to_file(file)
    return Order(str(model[0]), Path("scene"), tmp_path / "crops.gpkg", parcels=file)


def pixels_by_hand(shape):
    """Row and column of every pixel whose centre lies in the shape."""
    return [
        (row, column)
        for row in range(GRID.height)
        for column in range(GRID.width)
        if shape.contains(shapely.Point(GRID.left + 10 * column + 5, GRID.top - 10 * row - 5))
    ]


def by_hand(shape, images, weights, days=ON):
    """The oracle's crop and its probability."""
    held = pixels_by_hand(shape)
    values = np.array([images[:, :, row, column] for row, column in held])  # s t c
    seen = (values != NODATA).all(axis=2)
    normalised = np.where(seen[..., None], (values - np.array(MEAN)) / STD, 0)
    sides = sum(
        (row + down, column + right) not in held
        for row, column in held
        for down, right in ((1, 0), (-1, 0), (0, 1), (0, -1))
    )
    rows, columns = np.array(held).T
    about = (geometry_of(rows, columns, sides, 10.0) - OF_GEOMETRY) / SPREAD
    parcel = (torch.tensor(normalised).double(), torch.tensor(seen), torch.tensor(days), torch.tensor(about).double())
    shares = (oracle([parcel], weights)[0] / TEMPERATURE).softmax(dim=0)
    return "abcd"[int(shares.argmax())], 100 * float(shares.max()), int(seen.any(axis=1).sum())


@pytest.mark.parametrize("tile", [7, 1000])
def test_every_parcel_has_the_oracles_crop(order, model, images, tile, caplog):
    with caplog.at_level(logging.WARNING):
        files = make_map(replace(order, settings=Settings(tile=tile)), progress=False)
    assert [file.name for file in files] == ["crops.csv", "crops.gpkg"]
    found = gpd.read_file(order.out)
    assert found["name"].tolist() == list(SHAPES)
    assert len(pd.read_csv(files[0])) == len(SHAPES)
    crops = set()
    for row in found.itertuples():
        if row.name in ("far", "nowhere", "unseen"):
            assert pd.isna(row.majority)
            assert row.pixels == 0
            continue
        shape = place(24, 12, 1, 1) if row.name == "tiny" else SHAPES[row.name]
        crop, sure, pixels = by_hand(shape, images, model[1])
        assert (row.majority, row.majority_share, row.pixels) == (crop, 1.0, pixels), row.name
        assert row.confidence == pytest.approx(sure, abs=0.06)
        assert found[f"ha {crop}"][row.Index] == pytest.approx(pixels / 100)
        assert row.pixel_rule == ("touched" if row.name == "tiny" else "centre")
        crops.add(crop)
    assert len(crops) > 1
    assert "7 of 10 parcels have a crop; 1 hold no pixel's centre" in caplog.text
    assert "2 have fewer than 3 pixels" in caplog.text
    assert "1 were never seen" in caplog.text
    assert not [file for file in order.out.parent.iterdir() if file.name.startswith("tmp")]


def test_a_series_that_begins_after_new_year_is_in_the_trainings_season(order, model, images, monkeypatch):
    """The days 5, 47 and 90 are 370, 412 and 455 of a training that began in autumn."""
    imagery = PatchImagery(GRID, DAYS[2:], [], images[2:])
    monkeypatch.setattr(parcel_map, "open_source", lambda folder, legend, patch: imagery)
    make_map(order, progress=False)
    found = gpd.read_file(order.out).set_index("name")
    sure = {name: by_hand(SHAPES[name], images[2:], model[1], ON[2:]) for name in ("large", "edged", "over", "slanted")}
    for name, (crop, confidence, pixels) in sure.items():
        assert (found["majority"][name], found["pixels"][name]) == (crop, pixels), name
        assert found["confidence"][name] == pytest.approx(confidence, abs=0.06)
    as_counted = [by_hand(SHAPES[name], images[2:], model[1], DAYS[2:].tolist())[1] for name in sure]
    assert np.abs(np.subtract(as_counted, [confidence for _, confidence, _ in sure.values()])).max() > 1


def test_what_has_no_answer_is_refused(order):
    def refused(match, **changed):
        with pytest.raises(DataError, match=match):
            make_map(replace(order, **changed), progress=False)
        assert not order.out.exists()

    refused("give it the fields, --parcels", parcels=None)
    refused("makes no map of pixels; give a file that ends in .gpkg", out=order.out.with_suffix(".tif"))
    refused("leave them out with a parcel network", probabilities=True)
    refused("leave them out with a parcel network", label_next=3)
    refused("leave them out with a parcel network", settings=Settings(scale=2))


def test_a_network_of_other_geometric_features_is_refused(order, model):
    write_parcel_model(model[0], geometry=["a", "b", "c", "d"])
    with pytest.raises(DataError, match=r"trained with the geometric features a, b, c, d"):
        make_map(order, progress=False)


def test_another_season_is_refused(order, model):
    write_parcel_model(model[0], training={"days": [180, 200], "dates": [2, 2, 2]})
    with pytest.raises(DataError, match="no date of the scene is within 20 days"):
        make_map(order, progress=False)
