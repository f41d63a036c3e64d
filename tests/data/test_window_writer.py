"""Growing files are plain .npy files; statistics come from exact sums."""

from dataclasses import replace

import numpy as np
import pytest

from cluemap.data import window_writer
from cluemap.data.appendable_arrays import GrowingArray
from cluemap.errors import DataError


@pytest.mark.parametrize("pieces", [[], [1], [3, 1, 5], [1] * 12])
def test_a_growing_array_is_a_plain_npy_file(tmp_path, pieces):
    generator = np.random.default_rng(0)
    arrays = [generator.integers(-99, 99, (n, 2, 3)).astype(np.int16) for n in pieces]
    file = GrowingArray(tmp_path / "a.npy", np.int16, (2, 3))
    assert [file.append(array) for array in arrays] == [sum(pieces[:i]) for i in range(len(pieces))]
    file.close()
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.concatenate([np.zeros((0, 2, 3), np.int16), *arrays]))
    with pytest.raises(ValueError, match=r"takes int16 .*not float64"):
        GrowingArray(tmp_path / "b.npy", np.int16, (2, 3)).append(np.zeros((1, 2, 3)))


@pytest.mark.parametrize("first", [0, 1, 4])
def test_an_unfinished_array_is_gone_on_with(tmp_path, first):
    array = np.random.default_rng(0).integers(-99, 99, (7, 2, 3)).astype(np.int16)
    file = GrowingArray(tmp_path / "a.npy", np.int16, (2, 3))
    file.append(array[:first])
    extent = file.extent
    file.append(array)  # after the last record
    file.discard()
    again = GrowingArray.reopened(tmp_path / "a.npy", extent)
    assert again.append(array[first:]) == first
    again.close()
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), array)
    whole = GrowingArray(tmp_path / "b.npy", np.int16, (2, 3))
    whole.append(array)
    assert again.extent == whole.extent
    with pytest.raises(DataError, match="cut short"):
        GrowingArray.reopened(tmp_path / "a.npy", replace(whole.extent, length=8))


def test_moments_are_exact():
    images = np.random.default_rng(0).integers(-300, 32767, (3, 2, 5, 7)).astype(np.int16)
    images[1, :, 2:] = -10000
    for band, (count, total, squares, every) in enumerate(window_writer.moments(images).T):
        values = [int(value) for value in images[:, band].ravel() if value != -10000]
        assert (count, total, squares, every) == (len(values), sum(values), sum(v * v for v in values), 105)


def test_a_band_that_never_varies_normalises_to_zero():
    images = np.full((3, 2, 5, 7), 40, np.int16)
    images[:, 1] = -10000
    assert window_writer.statistics(window_writer.moments(images)) == ([40.0, 0.0], [1.0, 1.0])
