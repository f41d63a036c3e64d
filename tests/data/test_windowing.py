"""Cutting and thinning: positions by hand, laws of the dates kept, windows that cannot be."""

from pathlib import Path

import numpy as np
import pytest
from builders import write_pastis

from cluemap.data.formats.pastis import open_pastis
from cluemap.data.patches import NODATA, Patch
from cluemap.data.preparation import prepare
from cluemap.data.scenes.grid import Blocks
from cluemap.data.windowing import DateChoice, clear_shares, cut, date_choice, starts, thinned
from cluemap.data.windows import Windows
from cluemap.errors import DataError
from cluemap.mapping.overlap_blending import tiles
from cluemap.mapping.raster_prediction import windows_of
from cluemap.model.storage.trained_models import Card
from cluemap.params import WindowParams, load_params


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


def cloudy(dates: int, generator) -> np.ndarray:
    """t 3 5 7: blue is the second band; some pixels are bright, some dates were not seen."""
    images = generator.integers(100, 1500, (dates, 3, 5, 7)).astype(np.int16)
    share = generator.random(dates)
    for date in range(dates):
        images[date, 1][generator.random((5, 7)) < share[date]] = generator.choice([2500, 7000, NODATA])
        if generator.random() < 0.2:
            images[date] = NODATA
    return images


def clearest_by_the_book(images, most, clear, least) -> list[int]:
    """Date by date, pixel by pixel."""
    counts = {}
    for date, picture in enumerate(images):
        if (picture != NODATA).any():
            counts[date] = sum(1 for value in picture[1].ravel().tolist() if value != NODATA and value < 2500)
    kept = [date for date, count in counts.items() if count / 35 >= clear]
    while len(kept) < min(least, len(counts)):
        kept.append(max((date for date in counts if date not in kept), key=lambda date: (counts[date], -date)))
    kept.sort()
    return [kept[i] for i in thinned(np.ones(len(kept), bool), most)]


def test_clear_dates_are_kept_and_never_none():
    generator = np.random.default_rng(1)
    shorter = 0
    for _ in range(200):
        images = cloudy(int(generator.integers(1, 19)), generator)
        valid = (images != NODATA).any(axis=(1, 2, 3))
        most, least, clear = int(generator.integers(1, 17)), int(generator.integers(1, 7)), generator.random() or 0.5
        choice = DateChoice(most, clear, 2500, least, 1)
        kept = choice.kept(images, valid).tolist()
        assert kept == clearest_by_the_book(images, most, clear, least)
        assert valid[kept].all()
        assert bool(kept) == valid.any()
        assert kept == choice.kept(images, valid).tolist()
        np.testing.assert_array_equal(DateChoice(most).kept(images, valid), thinned(valid, most))
        shorter += len(kept) < min(valid.sum(), most)
    assert shorter > 50
    np.testing.assert_array_equal(clear_shares(np.array([[[2499, 2500]], [[NODATA, 10]]]), 2500), [0.5, 0.5])


def test_a_map_is_made_from_the_dates_that_training_saw(tmp_path: Path):
    """Prepared windows and those of a map, in the same places: the same dates; also where a map's are larger."""
    reader = open_pastis(write_pastis(tmp_path / "raw", {10001: 1, 10002: 4, 10003: 5}, size=48, dates=13), "all")
    plain = load_params("demo").model_copy(update={"windows": params(), "dataset": "demo"})
    bright = float(np.median([np.median(patch.images[:, 0]) for patch in reader])) / reader.legend.reflectance_scale
    told = params().model_copy(update={"clear": 0.5, "bright": bright, "least_dates": 2})
    for windows_params in (params(), told):
        folder = tmp_path / f"out_{windows_params.clear}"
        prepare(reader, plain.model_copy(update={"windows": windows_params}), folder, progress=False)
        windows = Windows.open(folder)
        card = windows.card
        assert card.dates == date_choice(windows_params, reader.legend) or not windows_params.clear
        chosen = card.dates if windows_params.clear else None
        about = Card("demo", "0", card.legend, 24, 60, card.mean, card.std, chosen=chosen)
        counts = set()
        for number, patch in enumerate(reader):
            for found in _windows_of_a_map(patch, 24, about):
                index = number * 4 + found.place[0] // 24 * 2 + found.place[1] // 24
                images, days, valid = windows.series(index)
                np.testing.assert_array_equal(found.days, days[valid])
                np.testing.assert_array_equal(found.images, images[valid])
                counts.add(len(days))
            for found in _windows_of_a_map(patch, 28, about):
                row, column = (side + 2 for side in found.place)
                middle = patch.images[:, :, row : row + 24, column : column + 24]
                kept = date_choice(windows_params, reader.legend).kept(middle, np.ones(13, bool))
                np.testing.assert_array_equal(found.days, patch.days[kept])
        assert (counts == {13}) == (not windows_params.clear)


def _windows_of_a_map(patch, size: int, about: Card):
    """All windows of `size` px that share what is more than in training."""
    for tile in tiles(*patch.labels.shape, Blocks(100, 100), size, size - 24):
        yield from windows_of(tile, patch.images, patch.days, size, about)
