"""`map_unlike.tif`: the measure pixel by pixel, in tiles, finer, at other dates, and what is said without it."""

from dataclasses import replace

import numpy as np
import pytest
import rasterio
import torch
from scenes import write_raster, write_scene
from test_predict import BANDS, HEIGHT, QUICK, WIDTH, write_model

from cluemap.errors import CheckpointError, DataError
from cluemap.mapping.map_products import Order, make_map
from cluemap.model.storage import checkpoints
from cluemap.model.storage.known_series import KnownSeries, read_known_series
from cluemap.statistics.unlike_training import UnlikeTraining
from cluemap.statistics.unlikeness import Unlikeness

DAYS = torch.arange(60, 245, 15)  # 13
DATES = {"2019-03-01": 60, "2019-04-15": 105, "2019-06-29": 180, "2019-08-13": 225}
STRANGE = (slice(20, 30), slice(11, 40))


def curves(generator, count, kind, days=None):
    """n t c: of class `kind` 0 or 1, early or late green; 2 is never green."""
    days = DAYS.numpy() if days is None else days
    peak = np.array([110, 190, 150])[kind] + generator.normal(0, 4, count)
    green = np.exp(-(((days[None] - peak[:, None]) / 40) ** 2)) * np.array([2000, 2000, -1000])[kind]
    bands = 1500 + green[..., None] * np.array([1.0, -0.5, 0.3]) + generator.normal(0, 60, (count, len(days), 3))
    return bands


@pytest.fixture
def known():
    generator = np.random.default_rng(2)
    taught = [curves(generator, 60, kind).reshape(60, -1) for kind in (0, 1)]
    held = np.concatenate([curves(generator, 100, kind).reshape(100, -1) for kind in (0, 1)])
    stored = [torch.from_numpy(np.rint(part).astype(np.int16)) for part in (np.concatenate(taught), held)]
    return KnownSeries(DAYS, stored[0], torch.from_numpy(np.repeat([1, 2], 60).astype(np.uint8)), stored[1])


@pytest.fixture
def model(tmp_path, known, monkeypatch):
    monkeypatch.setenv("CLUEMAP_DEVICE", "cpu")
    file = write_model(tmp_path / "random.safetensors", BANDS)
    held = checkpoints.load(file)
    checkpoints.save(file, {**held.tensors, **known.tensors()}, held.about)
    return file


@pytest.fixture
def images():
    """t c h w: classes 0 and 1 side by side, a strange field, a corner that was never seen, a cloud at one date."""
    generator, days = np.random.default_rng(4), np.array(list(DATES.values()))
    kind = np.zeros((HEIGHT, WIDTH), int)
    kind[:, WIDTH // 2 :] = 1
    kind[STRANGE] = 2
    out = np.zeros((len(days), 3, HEIGHT, WIDTH))
    for k in range(3):
        out[:, :, kind == k] = curves(generator, int((kind == k).sum()), k, days).transpose(1, 2, 0)
    out[:, :, :5, :7] = 0
    out[1, :, 30:35, 40:55] = 0
    return np.rint(out.clip(0)).astype(np.uint16)


@pytest.fixture
def scene(tmp_path, images):
    for day, image in zip(DATES, images, strict=True):
        write_raster(tmp_path / "images" / f"{day}.tif", image, names=BANDS)
    return write_scene(tmp_path, {"kind": "files", "path": "images", "bands": list(BANDS)}, labels=None, classes=None)


def read(path):
    with rasterio.open(path) as file:
        return file.read(1)


def test_the_map(model, scene, images):
    order = Order(str(model), scene, scene / "map.tif", settings=QUICK, unlike=True)
    files = make_map(order, progress=False)
    assert {scene / "map_unlike.tif", scene / "map_unlike.qml"} <= set(files)
    found = read(scene / "map_unlike.tif")
    unseen = (images == 0).all(axis=(0, 1))
    assert ((found == 255) == unseen).all()
    strange = np.zeros((HEIGHT, WIDTH), bool)
    strange[STRANGE] = True
    assert np.median(found[strange]) >= 99
    usual = found[~strange & ~unseen]
    assert usual.max() <= 100
    assert abs(np.mean(usual) - 50) < 12  # at four dates, of which none is strange for that

    whole = UnlikeTraining(read_known_series(model), np.array(list(DATES.values()), np.int16), torch.device("cpu"))
    raw = np.where(images == 0, -10000, images.astype(np.int32)).astype(np.int16)
    assert (np.where(unseen, 255, whole(raw)) == found).all()

    make_map(replace(order, out=scene / "fine.tif", settings=replace(QUICK, scale=2)), progress=False)
    assert (read(scene / "fine_unlike.tif") == np.kron(found, np.ones((2, 2), int))).all()
    make_map(replace(order, out=scene / "plain.tif", unlike=False), progress=False)
    assert not (scene / "plain_unlike.tif").exists()


def test_a_part_of_the_season_is_not_unlike_for_that(known):
    """Known pixels up to July: even in percent; held against the whole season most of them would stand out."""
    generator, days = np.random.default_rng(9), DAYS.numpy()[:7]
    series = np.concatenate([curves(generator, 150, kind, days) for kind in (0, 1)])  # n t c
    images = np.rint(series).astype(np.int16).transpose(1, 2, 0)[..., None]  # t c n 1
    one = UnlikeTraining(known, days.astype(np.int16), torch.device("cpu"))
    found = one(images)
    assert abs(found.mean() - 50) < 8
    assert (found >= 95).mean() < 0.12
    one.seen[:] = True
    one.measure = Unlikeness.of(known.taught.numpy(), known.classes.numpy(), known.held.numpy())
    assert (one(images) >= 95).mean() > 0.4


def test_another_year_and_the_turn_of_the_year(known):
    """The same series a year on, and with days counted from the autumn before: the same percents."""
    generator, days = np.random.default_rng(9), DAYS.numpy()[::2]
    images = np.rint(curves(generator, 40, 0, days)).astype(np.int16).transpose(1, 2, 0)[..., None]
    plain = UnlikeTraining(known, days.astype(np.int16), torch.device("cpu"))(images)
    turned = KnownSeries(known.days + 365, known.taught, known.classes, known.held)
    assert (UnlikeTraining(turned, days.astype(np.int16), torch.device("cpu"))(images) == plain).all()


def test_a_scene_of_another_season(known):
    with pytest.raises(DataError, match="no date of the scene is within the season"):
        UnlikeTraining(known, np.array([255, 300], np.int16), torch.device("cpu"))


def test_an_older_model_is_refused_before_anything_is_made(scene, tmp_path, monkeypatch):
    monkeypatch.setenv("CLUEMAP_DEVICE", "cpu")
    file = write_model(tmp_path / "old.safetensors", BANDS)
    with pytest.raises(CheckpointError, match=r"keeps no series of its training.*train again"):
        make_map(Order(str(file), scene, scene / "map.tif", settings=QUICK, unlike=True), progress=False)
    assert not list(scene.glob("*map*"))
