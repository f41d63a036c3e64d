"""refine.parcels: within known borders a parcel is decided as a whole, from positions alone."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tiny

from cluemap.data.parcels.window_maps import parcel_maps
from cluemap.data.series_features import SeriesFeatures
from cluemap.data.windows import Windows
from cluemap.errors import DataError
from cluemap.model.method.refinement import within_parcels
from cluemap.params import load_params
from cluemap.stages.refine_masks import one_round


def test_the_mean_of_a_parcel_in_each_window_by_hand():
    generator = np.random.default_rng(0)
    shares, parcels = generator.random((2, 3, 5, 4)).astype(np.float32), np.zeros((2, 3, 5), np.int32)
    parcels[0, :2, :2], parcels[1, 1:, 3:], parcels[1, 0, 0] = 7, 7, 9
    found = within_parcels(shares, parcels)
    for window in range(2):
        for row in range(3):
            for column in range(5):
                number, expected = parcels[window, row, column], shares[window, row, column]
                if number:
                    expected = shares[window][parcels[window] == number].mean(axis=0)
                np.testing.assert_allclose(found[window, row, column], expected, rtol=1e-5)
    np.testing.assert_array_equal(within_parcels(shares, np.zeros_like(parcels)), shares)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return tiny.make_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def windows(project):
    return Windows.open(project / "out/tiny/prepare/windows")


class FakeParcels:
    """Squares of 4 pixels in every window's patch, from row 1 and column 2 on; one reaches over the window's edge."""

    folder = "here"

    def __init__(self, windows):
        corners = [(1, 2), (7, 7), (12, 3)]
        self.places = [np.array([(r + i, c + j) for i in range(4) for j in range(4)], np.int32) for r, c in corners]
        patches = np.repeat(windows.table["patch"].to_numpy(), len(corners))
        self.table, self.pixels = pd.DataFrame({"patch": patches}), np.full(len(patches), 16)

    def positions(self, index):
        return self.places[index % len(self.places)]


def test_maps_of_windows(windows):
    parcels, indexes = FakeParcels(windows), windows.indexes("validation")
    maps = parcel_maps(parcels, windows, indexes)
    for window, index in zip(maps, indexes, strict=True):
        for number, places in enumerate(parcels.places):
            inside = {(r, c) for r, c in places.tolist() if r < 14 and c < 14}
            assert set(zip(*np.nonzero(window == 3 * index + number + 1), strict=True)) == inside
    away = SimpleNamespace(folder="here", table=pd.DataFrame({"patch": ["none"]}), pixels=np.array([16]))
    with pytest.raises(DataError, match="no parcel in the windows"):
        parcel_maps(away, windows, indexes)


def test_a_round_decides_parcels_as_a_whole(project, windows):
    params = load_params("tiny", project / "params.yaml").refine.model_copy(update={"confidence": 0.0})
    borders = {split: parcel_maps(FakeParcels(windows), windows, windows.indexes(split))
               for split in ("train", "validation")}  # fmt: skip
    masks = {split: np.asarray(windows.masks(split)) for split in borders}
    features = SeriesFeatures(windows)
    alone, whole = one_round(features, masks, params, 0), one_round(features, masks, params, 0, borders=borders)
    for split, maps in borders.items():
        mixed = 0
        for before, after, numbers in zip(alone[split], whole[split], maps, strict=True):
            assert (before == after)[numbers == 0].all()
            for number in set(np.unique(numbers)) - {0}:
                assert len(set(after[numbers == number])) == 1
                mixed += len(set(before[numbers == number])) > 1
        assert mixed > 3
