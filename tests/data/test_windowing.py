"""Cutting and thinning: positions by hand, laws of the dates kept, windows that cannot be."""

from pathlib import Path

import numpy as np
import pytest
from builders import write_pastis

from cluemap.data.formats.pastis import open_pastis
from cluemap.data.patches import Patch
from cluemap.data.windowing import cut, starts, thinned
from cluemap.errors import DataError
from cluemap.params import WindowParams


@pytest.fixture
def patch(tmp_path: Path) -> Patch:
    return open_pastis(write_pastis(tmp_path, {10001: 1}, size=55, dates=5), "all").read(0)


def params(size: int = 24) -> WindowParams:
    return WindowParams(size=size, stride=24, flush_edge=False, max_dates=60, presence=0.01, fold=1)


@pytest.mark.parametrize(
    ("length", "size", "stride", "flush", "expected"),
    [
        (128, 24, 24, False, [0, 24, 48, 72, 96]),
        (128, 24, 24, True, [0, 24, 48, 72, 96, 104]),
        (48, 24, 24, True, [0, 24]),
        (24, 24, 7, True, [0]),
        (23, 24, 24, True, []),
        (31, 24, 5, False, [0, 5]),
    ],
)
def test_first_pixels_of_windows(length, size, stride, flush, expected):
    assert starts(length, size, stride, flush) == expected


def test_long_series_lose_unseen_dates_first_and_are_then_thinned_evenly():
    generator = np.random.default_rng(0)
    for _ in range(200):
        valid = generator.random(int(generator.integers(1, 40))) < 0.8
        valid[0] = True
        most = int(generator.integers(2, 30))
        kept = thinned(valid, most).tolist()
        assert kept == sorted(set(kept))
        seen = [i for i, date in enumerate(valid) if date]
        if len(valid) <= most:
            assert kept == list(range(len(valid)))
        elif len(seen) <= most:
            assert kept == seen
        else:
            assert len(kept) == most
            assert set(kept) <= set(seen)
            assert (kept[0], kept[-1]) == (seen[0], seen[-1])
            gaps = np.diff([seen.index(i) for i in kept])
            assert gaps.max() - gaps.min() <= 1


def test_dates_between_are_the_nearest_to_even_spacing():
    assert thinned(np.ones(6, bool), 4).tolist() == [0, 2, 3, 5]  # 0, 1.67, 3.33, 5
    seen = np.array([False, True, True, False, True, True, True, False, True])
    assert thinned(seen, 4).tolist() == [1, 4, 5, 8]


def test_one_date_is_the_middle_one():
    assert thinned(np.ones(7, bool), 1).tolist() == [3]


def test_dates_without_data_in_one_window_are_invalid_there_alone(patch):
    patch.images[3, :, :24, :24] = -10000
    patch.images[2, :, :24, :23] = -10000
    windows = cut(patch, params())
    assert [window.valid.tolist() for window in windows[:2]] == [[True, True, True, False, True], [True] * 5]


def test_a_window_that_was_never_seen_is_named(patch):
    patch.images[:, :, 24:48, :24] = -10000
    with pytest.raises(DataError, match=r"S2_10001.npy: window 10001_2 has no data on any of its 5 dates"):
        cut(patch, params())


def test_a_patch_smaller_than_a_window_is_named(patch):
    with pytest.raises(DataError, match=r"patch 10001 has \(55, 55\) pixels.*windows.size \(now 64\) to at most 55"):
        cut(patch, params(64))
