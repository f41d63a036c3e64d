"""The sample of series that a model keeps: only of what its masks taught, and of land that was held out."""

import numpy as np
import pytest
from builders import write_prepared

from cluemap.data.patches import VOID
from cluemap.data.series_features import SeriesFeatures
from cluemap.data.windows import Windows
from cluemap.errors import CheckpointError
from cluemap.model.storage import checkpoints
from cluemap.model.storage.known_series import KnownSeries, read_known_series
from cluemap.statistics import taught_series as module
from cluemap.statistics.taught_series import taught_series

SIZE, BANDS = 14, 7


@pytest.fixture(scope="module")
def windows(tmp_path_factory):
    counts = {"train": 11, "validation": 5, "test": 3}
    return Windows.open(write_prepared(tmp_path_factory.mktemp("data") / "prepare", counts, size=SIZE, bands=BANDS))


@pytest.fixture
def masks():
    """Class 1 in a corner of every window, 2 in window 4 alone; the rest teaches nothing."""
    masks = np.full((11, SIZE, SIZE), VOID, np.uint8)
    masks[:, :5, :5] = 1
    masks[4, 8:, 8:11] = 2
    return masks


def rows_of(windows, split, wanted):
    """The series of the wanted pixels, as rows of bytes; seen ones."""
    features = SeriesFeatures(windows)
    found = features(windows.indexes(split))[wanted]
    return {row.tobytes() for row in np.rint(found).astype(np.int16) if row.any()}


def test_only_what_teaches_and_as_many_of_each_class(windows, masks, monkeypatch):
    monkeypatch.setattr(module, "OF_A_CLASS", 17)
    known = taught_series(windows, masks, 3)
    assert known.days.tolist() == SeriesFeatures(windows).days.tolist()
    assert np.bincount(known.classes.numpy()).tolist() == [0, 17, 17]
    for k in (1, 2):
        allowed = rows_of(windows, "train", masks == k)
        assert {row.tobytes() for row in known.taught[known.classes == k].numpy()} <= allowed
    held = {row.tobytes() for row in known.held.numpy()}
    assert held <= rows_of(windows, "validation", np.asarray(windows.masks("validation")) != VOID)
    assert len(held) > 200


def test_a_function_of_masks_and_seed(windows, masks):
    one, again, other = (taught_series(windows, masks, seed).tensors() for seed in (3, 3, 4))
    assert all((one[name] == again[name]).all() for name in one)
    assert not all(one[name].shape == other[name].shape and (one[name] == other[name]).all() for name in one)


def test_a_validation_fold_that_is_too_small_gives_way_to_the_training(windows, masks, monkeypatch):
    monkeypatch.setattr(module, "FEWEST", 10**6)
    held = taught_series(windows, masks, 3).held.numpy()
    assert len(held)
    assert {row.tobytes() for row in held} <= rows_of(windows, "train", masks != VOID)


def test_nothing_taught(windows):
    known = taught_series(windows, np.full((11, SIZE, SIZE), VOID, np.uint8), 3)
    assert known.taught.shape == (0, len(known.days) * BANDS)


def test_in_a_file_and_back(windows, masks, tmp_path):
    known = taught_series(windows, masks, 3)
    checkpoints.save(tmp_path / "one.safetensors", known.tensors(), {})
    back = read_known_series(tmp_path / "one.safetensors")
    assert isinstance(back, KnownSeries)
    assert all((value == back.tensors()[name]).all() for name, value in known.tensors().items())
    checkpoints.save(tmp_path / "old.safetensors", {"network/a": known.days}, {})
    with pytest.raises(CheckpointError, match=r"old.safetensors keeps no series of its training"):
        read_known_series(tmp_path / "old.safetensors")
    checkpoints.save(tmp_path / "bad.safetensors", {"known_series/days": known.days}, {})
    with pytest.raises(CheckpointError, match="does not fit its own description"):
        read_known_series(tmp_path / "bad.safetensors")
