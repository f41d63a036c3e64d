"""The demo's farmland, plants, sky and files."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import make_data
from cluemap.data.demo import SURFACE_BANDS, TOP_BANDS, Difficulty, Plan, make_demo, make_tile, render
from cluemap.data.demo.difficulty import GrowthKnobs, LandKnobs, SkyKnobs
from cluemap.data.demo.fields import blur, stream
from cluemap.data.demo.kinds import KINDS, NAMES
from cluemap.data.demo.land import RIM, make_land
from cluemap.data.demo.parcels import clip_polygon, cut_land, polygon_area
from cluemap.data.demo.phenology import RECOVERY, Growth, cover, make_growth
from cluemap.data.demo.scene import day_of_year, season_days
from cluemap.data.demo.sky import make_weather, picture
from cluemap.data.demo.writing import CARD, digest, patch_places, patch_seed
from cluemap.data.pastis import open_pastis
from cluemap.errors import DataError

IDS = (1, 2, 3, 4, 5, 7, 9, 13)
DATES = np.array(["2018-10-03", "2019-01-16", "2019-04-11", "2019-05-21", "2019-06-20", "2019-07-30"], "datetime64[D]")
ALIKE = GrowthKnobs(0, 0, 0, 0, 0, 0, 0, 0, 0)  # every parcel of a crop the same
CLEAR = SkyKnobs(overcast=0, broken=0, haze=0, correction=0, light=0, noise=0, missing=0, cut_off=0)
SMALL = Plan(seed=3, patches=1, size=32, least_dates=4, most_dates=6)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "demo"
    make_demo(folder, SMALL)
    return folder


# ---------------------------------------------------------------- land


def test_a_cut_parts_a_polygon_into_two_whose_areas_add_up():
    square = np.array([(0.0, 0.0), (0.0, 7.0), (5.0, 7.0), (5.0, 0.0)])
    normal = np.array([0.6, 0.8])
    left, right = clip_polygon(square, normal, 3.0), clip_polygon(square, -normal, -3.0)
    assert polygon_area(square) == pytest.approx(35.0)
    assert polygon_area(left) + polygon_area(right) == pytest.approx(35.0)
    assert (left @ normal >= 3.0 - 1e-9).all()
    assert len(clip_polygon(square, normal, 100.0)) == 0


def test_unbent_parcels_are_convex_and_cover_the_land():
    cutting = cut_land(61, 83, LandKnobs(bend=0.0), np.random.default_rng(1))
    assert (cutting.elements >= 0).all()
    elements = cutting.elements.reshape(61, 83)
    parcels = [number for number, kind in enumerate(cutting.kinds) if kind == "parcel"]
    assert len(parcels) > 10
    for parcel in parcels:
        places = np.argwhere(elements == parcel)[:40]
        for one in places:  # a convex set holds the midpoint of any two of its points
            for other in places[((places + one) % 2 == 0).all(axis=1)]:
                middle = (one + other) // 2
                assert elements[middle[0], middle[1]] == parcel


def test_a_parcel_has_one_label_and_is_void_when_most_of_it_lies_outside():
    land = make_land(47, 59, LandKnobs(), np.random.default_rng(5))
    whole, inner = land.elements, land.elements[RIM:-RIM, RIM:-RIM]
    assert set(np.unique(land.labels)) <= {0, *IDS, 19}
    assert 19 in land.labels
    for parcel in range(1, land.parcels.max() + 1):
        (element,) = np.unique(inner[land.parcels == parcel])
        mostly_outside = 2 * (inner == element).sum() < (whole == element).sum()
        expected = 19 if mostly_outside else KINDS[land.kinds[element]].crop
        assert set(land.labels[land.parcels == parcel]) == {expected}
    assert (land.labels[land.parcels == 0] == 0).all()


def test_every_fold_has_every_crop_and_windows_differ():
    plan, counts = Plan(), np.zeros((5, 20), int)
    for number, fold, *_ in patch_places(plan):
        land = make_land(plan.size, plan.size, plan.difficulty.land, stream(patch_seed(plan, number), 0))
        for row in range(0, 97, 24):
            for column in range(0, 97, 24):
                present = np.bincount(land.labels[row : row + 24, column : column + 24].ravel(), minlength=20) >= 6
                counts[fold - 1] += present
    assert (counts[:, list(IDS)] >= 10).all()
    assert (counts[:, list(IDS)] <= 80).all()  # of 125: no crop is everywhere
    assert 2.0 <= counts[:, list(IDS)].sum() / 625 <= 3.0


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


# ---------------------------------------------------------------- files


def test_the_layout_is_the_published_one(made: Path):
    metadata = json.loads((made / "metadata.geojson").read_text())
    assert list(metadata) == ["type", "features", "crs"]
    assert sorted(feature["properties"]["Fold"] for feature in metadata["features"]) == [1, 2, 3, 4, 5]
    for feature in metadata["features"]:
        properties = feature["properties"]
        number, dates = properties["ID_PATCH"], list(properties["dates-S2"].values())
        images = np.load(made / f"DATA_S2/S2_{number}.npy")
        target = np.load(made / f"ANNOTATIONS/TARGET_{number}.npy")
        parcels = np.load(made / f"ANNOTATIONS/ParcelIDs_{number}.npy")
        assert (images.dtype, images.shape) == (np.int16, (len(dates), 10, 32, 32))
        assert (target.dtype, target.shape) == (np.uint8, (3, 32, 32))
        assert (parcels.dtype, parcels.shape) == (np.int32, (32, 32))
        assert dates == sorted(set(dates))
        assert properties["N_Parcel"] == len(np.unique(parcels[parcels > 0]))
        assert properties["Parcel_Cover"] == pytest.approx((parcels > 0).mean())


def test_statistics_are_means_over_patches(made: Path):
    published = json.loads((made / "NORM_S2_patch.json").read_text())
    for feature in json.loads((made / "metadata.geojson").read_text())["features"]:
        images = np.load(made / f"DATA_S2/S2_{feature['properties']['ID_PATCH']}.npy").astype(float)
        fold = published[f"Fold_{feature['properties']['Fold']}"]  # one patch a fold here
        np.testing.assert_allclose(fold["mean"], images.mean(axis=(0, 2, 3)), atol=1e-5)
        np.testing.assert_allclose(fold["std"], images.std(axis=(0, 2, 3)), atol=1e-5)


def test_the_projects_reader_takes_it(made: Path):
    reader = open_pastis(made, list(IDS), "demo")
    patches = [reader.read(index) for index in range(len(reader))]
    assert [patch.fold for patch in patches] == [1, 2, 3, 4, 5]
    assert {patch.pixel for patch in patches} == {10.0}
    assert len({patch.corner for patch in patches}) == 5


def test_it_is_made_once_and_again_when_damaged(made: Path, tmp_path: Path):
    before = digest(made)
    assert "nothing to do" in make_demo(made, SMALL)
    victim = made / "ANNOTATIONS" / "TARGET_10000.npy"
    content = victim.read_bytes()
    victim.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert digest(made) != before
    assert "5 patches" in make_demo(made, SMALL)
    assert digest(made) == before
    other = tmp_path / "demo"
    make_demo(other, replace(SMALL, seed=4))
    assert digest(other) != before


def test_the_bits_depend_neither_on_processes_nor_on_the_processor(made: Path, tmp_path: Path):
    make_demo(tmp_path / "two", SMALL, processes=2)
    assert digest(tmp_path / "two") == digest(made)
    code = (
        "from pathlib import Path; from cluemap.data.demo import Plan, make_demo; import sys\n"
        f"make_demo(Path(sys.argv[1]), Plan(seed={SMALL.seed}, patches=1, size=32, least_dates=4, most_dates=6))"
    )
    plain = {"NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL", "OPENBLAS_CORETYPE": "Nehalem"}
    path = str(Path(make_data.__file__).parent)
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "plain")], check=True, capture_output=True,
                   env={**os.environ, **plain, "PYTHONPATH": path})  # fmt: skip
    assert digest(tmp_path / "plain") == digest(made)


def test_a_folder_that_is_not_the_generators_is_left_alone(tmp_path: Path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match=r"mine is not the demo generator's work.*--out"):
        make_demo(mine, SMALL)
    assert (mine / "thesis.txt").read_text() == "years of work"


def test_a_failure_in_the_middle_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cluemap.data.demo.writing.np.save", full_disk)
    with pytest.raises(OSError, match="No space"):
        make_demo(tmp_path / "demo", SMALL)
    assert list(tmp_path.iterdir()) == []


def test_the_script_refuses_a_negative_seed_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["make_data.py", "--out", str(tmp_path / "demo"), "--seed", "-1"])
    with pytest.raises(SystemExit, match="seed is -1: give 0"):
        make_data.main()
    assert not (tmp_path / "demo" / CARD).exists()


@pytest.mark.slow
def test_it_is_neither_trivial_nor_hopeless(tmp_path: Path):
    make_demo(tmp_path / "demo", Plan(patches=3), processes=2)
    file = Path(make_data.__file__).parents[1] / "bench" / "demo_baselines.py"
    spec = importlib.util.spec_from_file_location("demo_baselines", file)
    baselines = importlib.util.module_from_spec(spec)
    sys.modules["demo_baselines"] = baselines
    spec.loader.exec_module(baselines)
    train, test = baselines.read(tmp_path / "demo", (1, 2, 3)), baselines.read(tmp_path / "demo", (5,))
    chosen = np.random.default_rng(0).permutation(len(train.labels))[:12000]
    train = baselines.Pixels(train.features[chosen], train.labels[chosen])
    majority = np.mean(baselines.ious(test.labels, np.zeros_like(test.labels)))
    single = max(np.mean(baselines.score(train, test, [row])) for row in (12, 14, 18, 20))
    series = np.mean(baselines.score(train, test, list(range(0, len(baselines.DAYS), 2))))
    assert majority < 0.1
    assert 0.2 < single < 0.5
    assert single + 0.25 < series < 0.92
