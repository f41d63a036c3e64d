"""Parcels cut from a patch: every pixel in its place, geometry by hand, what is cut, left out and counted."""

from pathlib import Path

import numpy as np
import pytest

from cluemap.data.parcels.parcel import cut_parcels
from cluemap.data.patches import NODATA, VOID, Patch

NUMBERS = np.array(
    [
        [0, 0, 0, 0, 0, 0, 0],
        [0, 3, 3, 0, 9, 0, 0],
        [0, 3, 0, 0, 0, 0, 5],
        [0, 0, 0, 8, 8, 0, 5],
        [0, 0, 0, 8, 8, 0, 5],
    ],
    np.int32,
)


def patch_of(**changed) -> Patch:
    generator = np.random.default_rng(2)
    images = generator.integers(1, 9000, (3, 2, *NUMBERS.shape)).astype(np.int16)
    labels = np.zeros(NUMBERS.shape, np.uint8)
    labels[1, 1:3], labels[2, 1] = 2, 4
    labels[NUMBERS == 5] = VOID
    labels[NUMBERS == 8] = 1
    given = {
        "name": "77", "fold": 2, "split": None, "tile": "t", "images": images, "days": np.array([360, 5, 40], np.int16),
        "labels": labels, "corner": (1000.0, 5000.0), "crs": "EPSG:32632", "pixel": 20.0, "source": Path("x"),
    }  # fmt: skip
    return Patch(**{**given, **changed})


def test_pixels_places_classes_and_geometry():
    patch = patch_of()
    found = cut_parcels(patch, NUMBERS, least=2)
    assert [parcel.name for parcel in found.parcels] == ["77_3", "77_5", "77_8"]
    three, five, eight = found.parcels
    for parcel in found.parcels:
        for pixel, (row, column) in zip(parcel.pixels, parcel.positions, strict=True):
            assert NUMBERS[row, column] == int(parcel.name[3:])
            assert (pixel == patch.images[:, :, row, column]).all()
    assert [parcel.crop for parcel in found.parcels] == [2, VOID, 1]  # the class of most of its pixels
    assert (three.days == [360, 370, 405]).all()  # counted on over the turn of the year
    # perimeter 8 sides of 20 m; 3 of 4 pixels of the box; over 3 * 400 square metres
    np.testing.assert_allclose(three.geometry, [160, 3, 0.75, 160 / 1200], rtol=1e-6)
    np.testing.assert_allclose(eight.geometry, [160, 4, 1.0, 160 / 1600], rtol=1e-6)
    assert (three.area, five.area) == (1200.0, 1200.0)
    assert (eight.x, eight.y) == (1000 + 20 * 4, 5000 - 20 * 4)
    assert (three.fold, three.split, three.patch, three.crs) == (2, "", "77", "EPSG:32632")


def test_what_is_cut_left_out_and_counted():
    patch = patch_of()
    found = cut_parcels(patch, NUMBERS, least=2)
    assert [parcel.cut for parcel in found.parcels] == [False, True, True]
    assert found.counts == {"read": 4, "slivers": 1, "cut": 2, "unlabelled": 1}
    images = patch.images.copy()
    images[:, :, NUMBERS == 8] = NODATA
    found = cut_parcels(patch_of(images=images), NUMBERS, least=1)
    assert found.counts["never_seen"] == 1
    assert [parcel.name for parcel in found.parcels] == ["77_3", "77_5", "77_9"]


@pytest.mark.parametrize("numbers", [np.zeros_like(NUMBERS), np.where(NUMBERS == 9, 1, 0).astype(np.int32)])
def test_a_patch_without_parcels(numbers):
    assert cut_parcels(patch_of(), numbers, least=2).parcels == []


def test_offsets_and_splits_of_pieces():
    found = cut_parcels(patch_of(offset=(100, 200), fold=None, split="test"), NUMBERS, least=2).parcels
    assert (found[0].positions == np.array([[101, 201], [101, 202], [102, 201]])).all()
    assert (found[0].fold, found[0].split) == (-1, "test")
