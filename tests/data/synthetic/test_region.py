"""The demo's plants, optics, sky and scenes."""

import math
from dataclasses import replace

import numpy as np
import pytest

from cluemap.data.synthetic import SURFACE_BANDS, TOP_BANDS, Difficulty, make_tile, render
from cluemap.data.synthetic.atmosphere import make_weather, picture
from cluemap.data.synthetic.generator_params import GrowthParams, SkyParams
from cluemap.data.synthetic.land_cover import KINDS, NAMES
from cluemap.data.synthetic.phenology import RECOVERY, Growth, cover, make_growth
from cluemap.data.synthetic.random_fields import blur
from cluemap.data.synthetic.region import day_of_year, season_days

DATES = np.array(["2018-10-03", "2019-01-16", "2019-04-11", "2019-05-21", "2019-06-20", "2019-07-30"], "datetime64[D]")
ALIKE = GrowthParams(0, 0, 0, 0, 0, 0, 0, 0, 0)  # every parcel of a crop the same
CLEAR = SkyParams(overcast=0, broken=0, haze=0, correction=0, light=0, noise=0, missing=0, cut_off=0)


# ---------------------------------------------------------------- plants


def test_cover_agrees_with_a_plain_oracle():
    rng = np.random.default_rng(2)
    days = np.array([-60.0, 20.0, 131.0, 200.0, 300.0])  # t = 5
    green, dry, petals = (
        np.stack([rng.uniform(-90, 90, (3, p)), rng.uniform(4, 9, (3, p)), rng.uniform(100, 250, (3, p)),
                  rng.uniform(4, 9, (3, p)), rng.uniform(0, 0.9, (3, p))], axis=2)
        for p in (2, 1, 1)
    )  # fmt: skip
    cuts = np.array([[125.0, 1e6], [1e6, 1e6], [100.0, 199.0]])
    got = cover(Growth(green, dry, petals, cuts), days)

    def course(phases, day):
        rises = [
            (1 / (1 + math.exp(-(day - a) / b)), 1 / (1 + math.exp(-(c - day) / d)), h) for a, b, c, d, h in phases
        ]
        return sum(up * down * height for up, down, height in rises)

    for t, day in enumerate(days):
        for e in range(3):
            fresh = max([math.exp(-(day - cut) / RECOVERY) for cut in cuts[e] if cut <= day], default=0.0)
            standing = course(green[e], day)
            total = min(standing * (1 - 0.62 * fresh), 0.97)
            flowering = total * min(course(petals[e], day), 0.9)
            dead = min(course(dry[e], day) + 0.22 * fresh * standing, 0.97 - total)
            np.testing.assert_allclose(got[t, e], (total - flowering, flowering, dead), rtol=1e-12)


def test_the_calendar_of_the_crops():
    names = ("winter barley", "soft winter wheat", "winter rapeseed", "corn", "sunflower", "potatoes", "beet", "meadow")
    growth = make_growth(np.array([NAMES[name] for name in names]), 0.0, ALIKE, np.random.default_rng(0))
    days = np.arange(-100.0, 300.0)
    shares = cover(growth, days)
    assert shares.min() >= 0
    assert shares.sum(axis=2).max() <= 0.97 + 1e-9
    green = {name: shares[:, number, :2].sum(axis=1) for number, name in enumerate(names)}

    def on(day: int) -> dict[str, float]:
        return {name: course[day + 100] for name, course in green.items()}

    assert on(170)["winter barley"] < 0.5 < on(170)["soft winter wheat"]  # barley ripens first
    assert on(105)["corn"] < 0.1 < 0.7 < on(210)["corn"]
    assert on(240)["sunflower"] < 0.4 < 0.7 < on(240)["corn"]
    assert on(250)["potatoes"] < 0.2 < 0.8 < on(250)["beet"]
    assert on(0)["winter rapeseed"] > on(0)["soft winter wheat"] > on(0)["corn"]
    assert min(green["meadow"]) > 0.5
    assert days[shares[:, names.index("winter rapeseed"), 1].argmax()] == pytest.approx(113, abs=10)  # in flower
    late = cover(make_growth(np.array([NAMES["corn"]]), 9.0, ALIKE, np.random.default_rng(0)), days + 9.0)
    np.testing.assert_allclose(late[:, 0, 0], shares[:, names.index("corn"), 0], atol=1e-6)


# ---------------------------------------------------------------- sky and optics


def test_blur_agrees_with_a_plain_oracle_and_keeps_constants():
    image = np.random.default_rng(0).random((2, 5 + 8, 7 + 8))
    weights = [math.exp(-0.5 * (step / 1.3) ** 2) for step in range(-4, 5)]
    expected = np.zeros((2, 5, 7))
    for row in range(5):
        for column in range(7):
            for i, a in enumerate(weights):
                for j, b in enumerate(weights):
                    expected[:, row, column] += a * b * image[:, row + i, column + j] / sum(weights) ** 2
    np.testing.assert_allclose(blur(image, 1.3, 4), expected, rtol=1e-10)
    np.testing.assert_allclose(blur(np.full((9, 9), 0.25), 0.8, 3), 0.25)


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0.0, 0.0), (0.3, 0.1, 0.4), (1.3, 0.9, 1.0)])
def test_clouds_cover_the_share_they_are_told(share: float, low: float, high: float):
    rng, land = np.random.default_rng(4), np.full((10, 53, 61), 0.1)
    weather = replace(make_weather(season_days(DATES), CLEAR, rng), clouds=np.full(len(DATES), share))
    views = [picture(land, weather, date, SURFACE_BANDS, CLEAR, rng) for date in range(len(DATES))]
    assert low <= np.mean([view[0] > 1800 for view in views]) <= high
    assert (min(view.min() for view in views) < 900) == (share == 0.3)  # shadows, where there is light to be shaded


def test_a_missing_date_is_no_data_everywhere():
    rng = np.random.default_rng(0)
    weather = make_weather(season_days(DATES), replace(CLEAR, missing=1.0), rng)
    assert (picture(np.full((10, 5, 7), 0.1), weather, 0, SURFACE_BANDS, CLEAR, rng) == -10000).all()


# ---------------------------------------------------------------- scenes


def test_a_scene_is_the_same_every_time_and_its_land_does_not_depend_on_the_dates():
    tile = make_tile(DATES, (7, 0))
    one, two = (render(29, 37, tile, (7, 1)) for _ in range(2))
    assert one.images.shape == (6, 10, 29, 37)
    assert one.images.dtype == np.int16
    for name in ("images", "days", "labels", "parcels"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    np.testing.assert_array_equal(render(29, 37, make_tile(DATES[:2], (7, 0)), (7, 1)).labels, one.labels)
    assert (render(29, 37, tile, (8, 1)).images != one.images).mean() > 0.9


def test_days_count_from_the_first_of_january():
    dates = np.array(["2019-12-31", "2020-01-01", "2020-12-31"], "datetime64[D]")
    assert day_of_year(dates).tolist() == [365, 1, 366]
    assert season_days(dates).tolist() == [-1.0, 0.0, 365.0]


def test_the_air_adds_blue_and_hides_the_ground_from_the_cirrus_band():
    difficulty = Difficulty(sky=CLEAR)
    tile = make_tile(DATES, (7, 0), difficulty)
    surface = render(24, 24, tile, (7, 1), SURFACE_BANDS, difficulty)
    top = render(24, 24, tile, (7, 1), TOP_BANDS, difficulty)
    assert top.images.shape[1] == 13
    of_top, of_surface = ([band.name for band in bands] for bands in (TOP_BANDS, SURFACE_BANDS))
    blue, cirrus = top.images[:, of_top.index("B02")], top.images[:, of_top.index("B10")]
    assert (blue > surface.images[:, of_surface.index("B02")]).all()
    assert cirrus.max() < 100
    np.testing.assert_array_equal(top.labels, surface.labels)


def test_seen_alone_a_date_does_not_tell_wheat_from_barley():
    kinds = np.array([NAMES["soft winter wheat"], NAMES["winter barley"]])
    growth = make_growth(kinds, 0.0, ALIKE, np.random.default_rng(0))
    assert KINDS[kinds[0]].canopy == KINDS[kinds[1]].canopy
    shares = cover(growth, np.arange(-100.0, 300.0))
    for day in range(100, 220):  # what barley looks like, wheat looked or will look like
        assert np.abs(shares[:, 0] - shares[100 + day, 1]).sum(axis=1).min() < 0.12
