"""How often windows of rare classes are drawn: by hand, in the batches of the trainer, over processes and devices."""

import numpy as np
import pytest
from builders import write_prepared

from cluemap.data.batches import batch_indexes
from cluemap.data.windows import Windows
from cluemap.params import load_params
from cluemap.runtime.distributed import ALONE
from cluemap.training.segmenter_task import repeats
from cluemap.training.semisupervised.mixed_data import segmenter_data

VOID = 255
# windows of 2 x 5 pixels: class 0 in all but the last, class 1 in four, class 3 in one (and a single pixel in another)
ROWS = [
    [0] * 10,
    [0] * 5 + [1] * 5,
    [1] * 9 + [0],
    [0, 1] * 5,
    [0, 1, 3, 3, 3, 0, 0, 0, 0, VOID],
    [0] * 9 + [3],
    [VOID] * 10,
]
MASKS = np.array(ROWS, np.uint8).reshape(7, 2, 5)


def test_by_hand():
    """Class 0 is in 6 windows (once with a tenth of the pixels, which is no more than a tenth: 5), 1 in 4, 3 in 1."""
    assert repeats(MASKS, 0.5, 0.05).tolist() == [10, 12, 12, 12, 17, 17, 10]  # 3 in two: (6 / 2) ** 0.5
    assert repeats(MASKS, 0.5, 0.1).tolist() == [10, 13, 13, 13, 22, 10, 10]  # 3 in one, 1 in three: (5 / 1) ** 0.5
    assert repeats(MASKS, 1.0, 0.05).tolist() == [10, 15, 15, 15, 30, 30, 10]


def test_off_and_nothing_known():
    assert repeats(MASKS, 0.0, 0.05).tolist() == [1] * 7
    assert repeats(np.full((3, 2, 5), VOID, np.uint8), 0.5, 0.05).tolist() == [1] * 3


def test_frequencies_in_the_batches():
    """Over whole epochs each window is drawn in proportion, whatever the batch; all processes' shares together."""
    times = repeats(MASKS, 0.5, 0.05)
    drawn = np.repeat(np.arange(7), times)  # 90
    for world in (1, 2, 3):
        steps = [
            np.concatenate([batch_indexes(len(drawn), 6, step, 11, rank, world) for rank in range(world)])
            for step in range(2 * len(drawn) // 6)
        ]
        counts = np.bincount(drawn[np.concatenate(steps)], minlength=7)
        np.testing.assert_array_equal(counts, 2 * times)
    assert np.bincount(drawn[batch_indexes(len(drawn), 45, 0, 11)], minlength=7).max() < 17  # spread over the epoch


@pytest.mark.parametrize("power", [0.0, 0.5])
def test_segmenter_data(tmp_path, power):
    params = load_params("demo")
    params = params.model_copy(update={"segmenter": params.segmenter.model_copy(update={"balanced": power})})
    windows = Windows.open(write_prepared(tmp_path / "prepare", {"train": 13, "validation": 5, "test": 3}, size=12))
    masks = np.ones((13, 12, 12), np.uint8)
    masks[3, :2] = 2
    data = segmenter_data(windows, masks, params, ALONE)
    expected = repeats(masks, power, params.windows.presence)
    assert (expected > 10).any() == (power > 0)
    np.testing.assert_array_equal(np.repeat(windows.indexes("train"), expected), data.indexes)
