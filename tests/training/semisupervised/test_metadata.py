"""Where windows lie, in degrees and in standard deviations."""

import numpy as np
import pandas as pd
import pytest
from builders import write_prepared
from rasterio.warp import transform

from cluemap.data.windows import Windows
from cluemap.errors import DataError
from cluemap.training.semisupervised.metadata import metadata_of, places_of


@pytest.fixture
def folder(tmp_path):
    return write_prepared(tmp_path, {"train": 7, "validation": 3, "test": 2}, size=10, bands=2)


def changed(folder, **columns):
    table = pd.read_parquet(folder / "windows.parquet")
    for name, values in columns.items():
        table[name] = values
    table.to_parquet(folder / "windows.parquet")
    return Windows.open(folder)


def test_places_are_the_centres_in_each_windows_own_crs(folder):
    crs = ["EPSG:2154"] * 8 + ["EPSG:32632"] * 4
    y = 5_400_000.0 + 1000 * np.arange(12)
    windows = changed(folder, crs=crs, y=y)
    found = places_of(windows)
    for row, one in enumerate(windows.table.itertuples()):
        [longitude], [latitude] = transform(one.crs, "EPSG:4326", [one.x + 50], [one.y - 50])
        assert found[row] == pytest.approx([latitude, longitude], abs=1e-7)


def test_metadata_are_standardised_over_the_training_windows(folder):
    windows = Windows.open(folder)
    found = metadata_of(windows).numpy()
    train = windows.indexes("train")
    assert np.allclose(found[train].mean(axis=0), 0, atol=1e-4)
    assert np.allclose(found[train, :2].std(axis=0), 1, atol=1e-4)
    assert (found[:, 2] == 0).all()  # one year for all, or no year
    assert found[windows.indexes("test"), 1].min() > 1.5  # further east than all of them
    hidden = windows.hiding(train[2:5], image_labels=False)
    np.testing.assert_array_equal(metadata_of(hidden).numpy(), found)  # unlabelled windows are learned from too
    assert (metadata_of(changed(folder, x=5e5, y=6.9e6)) == 0).all()


def test_years_are_standardised_too_and_unknown_ones_are_the_mean(folder):
    years = [2016, 2017, 2016, 2017, None, 2016, 2018, 2016, 2017, 2020, None, 2016]
    found = metadata_of(changed(folder, year=pd.array(years, dtype="Int32"))).numpy()[:, 2]
    known = np.array([2016, 2017, 2016, 2017, 2016, 2018])  # of the training windows
    for row, year in enumerate(years):
        assert found[row] == pytest.approx(0 if year is None else (year - known.mean()) / known.std(), abs=1e-5)
    older = Windows.open(folder)
    older.table.drop(columns="year").to_parquet(folder / "windows.parquet")
    assert (metadata_of(Windows.open(folder)).numpy()[:, 2] == 0).all()


def test_an_unknown_place_is_named(folder):
    with pytest.raises(DataError, match=r"where window 10003_0 lies.*metadata: none"):
        metadata_of(changed(folder, crs=["EPSG:2154"] * 3 + [None] + ["EPSG:2154"] * 8))
    with pytest.raises(DataError, match=r"where window 10000_0 lies"):
        metadata_of(changed(folder, x=np.nan))
