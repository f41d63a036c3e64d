"""Labels of parcels from image labels: what the labels of all touched windows leave, and what masks or CAMs decide."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from cluemap.data.parcels.parcels import Parcels
from cluemap.data.patches import VOID
from cluemap.errors import DataError
from cluemap.training.parcels.voting import candidates, check_same_split, vote

SIZE, CLASSES = 4, 3
LABELS = np.array([[1, 1, 0], [0, 1, 1], [1, 0, 1]], bool)  # of three windows, k = 1..3
PRESENCE = 0.1  # of 16 pixels: 2 or more are in the label


class FakeWindows:
    """Three windows side by side in patch 7."""

    table = pd.DataFrame({"patch": ["7"] * 3, "row": [0] * 3, "column": [0, 4, 8], "split": ["train"] * 3})
    possible, mask_row = LABELS, np.arange(3)
    card = SimpleNamespace(size=SIZE)

    def indexes(self, split):
        return np.arange(3) if split == "train" else np.arange(0)


class FakeParcels(Parcels):
    def __init__(self, places, background=False):
        self.__dict__.update(
            table=pd.DataFrame({"patch": ["7"] * len(places)}),
            card=SimpleNamespace(background=background, names=["x"] * (CLASSES + background)),
            places=[np.array(place, np.int32) for place in places],
        )

    def positions(self, index):
        return self.places[index]


def square(row, column, height, width):
    return [(row + i, column + j) for i in range(height) for j in range(width)]


def votes_of(places, maps, background=False, least=0.5, below=None):
    parcels = FakeParcels(places, background)
    return vote(parcels, np.arange(len(places)), FakeWindows(), maps, PRESENCE, least, below)


def masks(value=VOID):
    return np.full((3, SIZE, SIZE), value, np.uint8)


def test_two_windows_leave_what_both_hold():
    """Classes 1, 2 in one window and 2, 3 in the other: 2, whatever the masks say."""
    found = votes_of([square(0, 2, 2, 4)], masks(1))
    assert (found.crop[0], found.share[0], found.allowed[0]) == (2, 1.0, 1)


def test_a_window_in_which_the_parcel_is_small_leaves_all():
    """One pixel in the second window is under the presence: its label need not hold the parcel's class."""
    given = masks(1)
    found = votes_of([[*square(0, 1, 2, 3), (0, 4)]], given)
    assert (found.crop[0], found.allowed[0]) == (1, 2)


@pytest.mark.parametrize("background", [False, True])
def test_candidates_are_what_the_labels_leave(background):
    parcels = FakeParcels(
        [square(0, 2, 2, 4), square(0, 0, 2, 2), square(30, 30, 3, 3), square(0, 4, 1, 1)], background
    )
    found = candidates(parcels, np.arange(3), FakeWindows(), PRESENCE)
    expected = np.array([[0, 1, 0], [1, 1, 0], [0, 0, 0], [0, 0, 0]], bool)
    assert (found[:, int(background) :] == expected).all()
    if background:
        assert found[:, 0].tolist() == [True, True, False, False]


def test_the_masks_decide_among_the_allowed():
    given = masks()
    given[0, :2, :2] = [[1, 2], [2, 3]]  # 3 is not in the label
    found = votes_of([square(0, 0, 2, 2)], given)
    assert found.crop[0] == 2
    assert found.share[0] == pytest.approx(2 / 3)
    assert votes_of([square(0, 0, 2, 2)], given, least=0.7).crop[0] == VOID


def test_without_a_vote_or_a_window_there_is_no_label():
    found = votes_of([square(0, 0, 2, 2), square(30, 30, 3, 3), square(0, 4, 1, 1)], masks())
    assert (found.crop == VOID).all()
    assert found.allowed.tolist() == [2, 0, 0]


def test_background_is_allowed_only_where_it_is_a_class_of_parcels():
    given = masks(0)
    given[0, 0, 0] = 1
    assert votes_of([square(0, 0, 2, 2)], given).crop[0] == 1
    assert votes_of([square(0, 0, 2, 2)], given, background=True).crop[0] == 0


def test_cams_decide_by_their_mean_over_the_parcel():
    cams = np.zeros((3, CLASSES, 2, 2), np.float16)  # a cell is 2 x 2 pixels
    cams[0, 0, 0, 0], cams[0, 1, 0, 1], cams[0, 2] = 0.9, 0.5, 1.0
    assert votes_of([square(0, 0, 2, 3)], cams, below=0.3).crop[0] == 1  # 4 * 0.9 against 2 * 0.5
    assert votes_of([square(0, 1, 2, 3)], cams, below=0.3, least=0.0).crop[0] == 2  # 2 * 0.9 against 4 * 0.5
    assert votes_of([square(2, 0, 2, 3)], cams, below=0.3, background=True).crop[0] == 0


def test_other_splits_of_windows_and_parcels_are_refused():
    parcels = FakeParcels([square(0, 0, 2, 2)])
    check_same_split(parcels, np.array(["train"], object), FakeWindows())
    with pytest.raises(DataError, match="patch 7 is in the train split as windows and in test as parcels"):
        check_same_split(parcels, np.array(["test"], object), FakeWindows())
