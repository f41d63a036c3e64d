"""Series at even days: windows that are first seen after New Year beside others that are seen from autumn on."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cluemap.data.patches import NODATA
from cluemap.data.series_features import (
    EVERY,
    HAZE,
    NEAR,
    SeriesFeatures,
    clear_features,
    even_days,
    features,
    median_span,
    season,
    years_apart,
)
from cluemap.model.networks.pixel_segmenter import EvenSeries
from cluemap.training.parcels import baselines

SIZE, BANDS = 2, 3
AUTUMN = np.array([281, 320, 355, 40, 80, 125, 160, 200, 233], np.int16)
SPRING = AUTUMN[3:]


class Stub:
    """Windows of one land: a pixel's value is a function of the date and the band alone."""

    def __init__(self, *days):
        self.days = days
        legend = SimpleNamespace(bands=tuple(range(BANDS)))
        mean, std = np.full(BANDS, 700.5, np.float32), np.full(BANDS, 11, np.float32)
        self.card = SimpleNamespace(size=SIZE, legend=legend, mean=mean, std=std)

    def indexes(self, split):
        return np.arange(len(self.days))

    def series(self, index):
        days = self.days[index]
        values = 500 + 3 * days[:, None] + 100 * np.arange(BANDS)
        images = np.broadcast_to(values[:, :, None, None], (len(days), BANDS, SIZE, SIZE)).astype(np.int16)
        return images, days, np.ones(len(days), bool)


@pytest.mark.parametrize(
    "days", [(AUTUMN, AUTUMN, SPRING), (SPRING, AUTUMN), (AUTUMN, SPRING), (SPRING, SPRING, AUTUMN)]
)
def test_the_same_day_is_the_same_feature(days):
    windows = Stub(*days)
    features = SeriesFeatures(windows)
    found = features(windows.indexes("train"))[:, 0, 0].reshape(len(days), -1, BANDS)
    spring, autumn = (next(i for i, one in enumerate(days) if len(one) == len(kind)) for kind in (SPRING, AUTUMN))
    places = season(AUTUMN)
    years = np.round((features.days.mean() - places.mean()) / 365).astype(int)
    seen = (features.days >= places[3] + 365 * years) & (features.days <= places[-1] + 365 * years)
    assert seen.sum() > 10
    np.testing.assert_allclose(found[spring, seen], found[autumn, seen], rtol=1e-5)
    assert np.ptp(found[spring, seen], axis=0).min() > 100  # not one date's value held over the year


def test_an_exported_learner_sees_the_same():
    windows = Stub(AUTUMN, AUTUMN, SPRING)
    features = SeriesFeatures(windows)
    twin = EvenSeries(*map(torch.from_numpy, (windows.card.mean, windows.card.std, features.days)))
    for index in windows.indexes("train"):
        images, days, valid = windows.series(index)
        assert not (images == NODATA).any()
        normal = (images - windows.card.mean[:, None, None]) / windows.card.std[:, None, None]
        told = (torch.from_numpy(one)[None] for one in (normal.astype(np.float32), days.astype(np.int64), valid))
        here = features(np.array([index])).reshape(SIZE * SIZE, -1)
        np.testing.assert_allclose(twin(*told).numpy(), here, rtol=1e-4, atol=0.1)


def test_a_parcel_first_seen_after_new_year_has_the_features_of_its_neighbours():
    windows = Stub(AUTUMN, AUTUMN, SPRING)

    def series(index):
        images, days, _ = windows.series(index)
        return images.reshape(len(days), BANDS, -1).transpose(2, 0, 1), season(days)

    def spans(indexes):
        return np.stack([series(index)[1][[0, -1]] for index in indexes])

    parcels = SimpleNamespace(series=series, spans=spans, geometry=np.zeros((3, 1), np.float32))
    found = baselines.features(parcels, np.arange(3), np.arange(3))[:, :-1].reshape(3, -1, BANDS)
    half = slice(found.shape[1] // 2, None)  # after New Year
    np.testing.assert_allclose(found[2, half], found[0, half], rtol=1e-5)


def test_a_parcel_seen_at_the_end_of_its_series_alone_stays_in_its_year():
    """Its few dates lie more than half a year behind the middle of the season, its series does not."""
    days, even = np.array([260, 400, 600, 660]), np.arange(200, 561, 10)
    pixels = np.full((2, 4, BANDS), NODATA, np.int16)
    pixels[:, 2], pixels[:, 3] = 500, 900
    assert (baselines.median_series(pixels, days, even) == 500).all()


@pytest.mark.parametrize("years", [-1, 0, 1, 6])
def test_seasons_any_number_of_years_apart(years):
    dates = season(AUTUMN)
    assert years_apart(dates + 365 * years, dates) == -years
    spans = np.array([[281, 598], [291, 608], [271, 588]])
    assert median_span(spans + 365 * np.array([[0], [years], [-years]])) == (281, 598)


class Clouded(Stub):
    """The same land under clouds that differ from pixel to pixel: bright in every band. One pixel shows nothing."""

    def __init__(self, *days):
        super().__init__(*days)
        self.card.legend = SimpleNamespace(
            bands=tuple(range(BANDS)), true_colour=(2, 1, 0), reflectance_scale=10000.0, classes=()
        )

    def series(self, index):
        images, days, valid = super().series(index)
        draw, clouded = np.random.default_rng(int(index)), images.copy()
        cloud = draw.random((len(days), 1, SIZE, SIZE)) < 0.4
        cloud[::3] = False
        clouded += (cloud * 4000).astype(np.int16)
        clouded[:, :, 1, 1] = NODATA
        clouded[1, 2, 0, 1] = NODATA
        return clouded, days, valid & (np.arange(len(days)) != 4)


def test_features_of_clear_dates_are_the_weighted_means_that_they_say():
    windows = Clouded(AUTUMN, SPRING)
    every = even_days(windows, np.array([0, 1]), EVERY)
    found = clear_features(windows, np.array([0, 1]), every).reshape(2, SIZE, SIZE, len(every), BANDS)
    for index, row, column in np.ndindex(2, SIZE, SIZE):
        images, days, valid = windows.series(index)
        dates = season(days)
        dates = dates + 365 * years_apart(dates[valid], every)
        seen = [t for t in range(len(days)) if valid[t] and (images[t, :, row, column] != NODATA).all()]
        for place, day in enumerate(every):
            if not seen:
                assert (found[index, row, column, place] == 0).all()
                continue
            darkest = min(float(images[t, 0, row, column]) for t in seen)
            weights = [
                math.exp(-abs(float(day - dates[t])) / NEAR - (float(images[t, 0, row, column]) - darkest) / 1e4 / HAZE)
                for t in seen
            ]
            mean = sum(w * images[t, :, row, column].astype(float) for w, t in zip(weights, seen, strict=True)) / sum(
                weights
            )
            np.testing.assert_allclose(found[index, row, column, place], mean, rtol=1e-4)


def test_clouds_hardly_reach_the_features_of_clear_dates():
    clear, clouded = Stub(AUTUMN), Clouded(AUTUMN)
    clear.card = clouded.card
    apart = {}
    every = even_days(clear, np.array([0]), EVERY)
    for kind in (features, clear_features):
        one, other = (kind(windows, np.array([0]), every)[0, 0, 0] for windows in (clear, clouded))
        apart[kind] = float(np.abs(one - other).max())
    assert apart[features] > 3000
    assert apart[clear_features] < 200
