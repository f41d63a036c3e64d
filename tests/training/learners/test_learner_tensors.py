"""Pixel learners as segmenters: the probabilities that scikit-learn gives, on the same features; saved, exported."""

import numpy as np
import pytest
import torch
from builders import write_prepared

from cluemap.data.batches import load, load_raw
from cluemap.data.patches import NODATA
from cluemap.data.series_features import SeriesFeatures, season
from cluemap.data.windows import Windows
from cluemap.errors import CheckpointError
from cluemap.model.networks.pixel_segmenter import EvenSeries
from cluemap.model.storage import checkpoints
from cluemap.model.storage.exported_model import FromRaw
from cluemap.model.storage.trained_models import about_pixels, load_segmenter
from cluemap.params import load_params
from cluemap.training.learners.learner_tensors import segmenter_of
from cluemap.training.learners.pixel_learners import LinearLearner, forest, trees

CLASSES, SIZE, BANDS = 4, 11, 5


@pytest.fixture(scope="module")
def windows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "windows"
    counts = {"train": 13, "validation": 5, "test": 3}
    write_prepared(folder, counts, classes=CLASSES, size=SIZE, dates=(6, 11), bands=BANDS)
    return Windows.open(folder)


@pytest.fixture(scope="module")
def features(windows):
    return SeriesFeatures(windows)


def fitted(kind, features, masks=None):
    learner = {
        "linear": lambda: LinearLearner(features),
        "trees": lambda: trees(features, 1500, 0, rounds=7, leaves=6),
        "forest": lambda: forest(features, 1500, 0, 5),
    }[kind]()
    masks = np.asarray(features.windows.masks("train")) if masks is None else masks
    return learner.fit(features.windows.indexes("train"), masks)


def probabilities(network, windows, indexes):
    """n h w k of the segmenter, as the pipeline asks it: padded batches, normalised."""
    batch = load(windows, indexes)
    with torch.no_grad():
        return network(batch.images, batch.day, batch.valid).softmax(dim=1).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("kind", ["linear", "trees", "forest"])
def test_the_segmenter_gives_the_learners_probabilities(features, windows, kind):
    learner, indexes = fitted(kind, features), windows.indexes("validation")
    expected = np.concatenate([part for _, part in learner.probabilities(indexes)])
    found = probabilities(segmenter_of(learner), windows, indexes)
    assert (np.abs(found - expected).max(axis=-1) < 1e-4).mean() > 0.999  # a feature may lie on a threshold
    assert (found.argmax(axis=-1) + learner.first == learner.maps(indexes)).mean() > 0.999


@pytest.mark.parametrize("kind", ["linear", "trees", "forest"])
@pytest.mark.parametrize("kept", [(1,), (0, 3), (0, 2, 4)])
def test_classes_that_were_not_there_get_nothing(features, windows, kind, kept):
    """One class alone, two (one tree a round, not two), three of five."""
    masks = np.asarray(windows.masks("train")).copy()
    masks[~np.isin(masks, kept)] = 255
    learner, indexes = fitted(kind, features, masks), windows.indexes("test")
    expected = np.concatenate([part for _, part in learner.probabilities(indexes)])
    found = probabilities(segmenter_of(learner), windows, indexes)
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert found[..., [k for k in range(CLASSES + 1) if k not in kept]].max() < 1e-6


def slow_series(images, dates, days):
    """t c, t, g -> g c: by numpy, one pixel and band at a time, over the dates with all bands."""
    seen = (images != NODATA).all(axis=1)
    if not seen.any():
        return np.zeros((len(days), images.shape[1]))
    order = season(dates)
    return np.stack([np.interp(days, order[seen], band[seen]) for band in images.T], axis=1)


def test_even_series_against_a_slow_one(windows, features):
    """With gaps of single pixels, over the turn of the year, padded."""
    generator = np.random.default_rng(1)
    raw = load_raw(windows, windows.indexes("test"))
    images = raw.images.numpy().copy()
    images[generator.random((*images.shape[:2], 1, *images.shape[3:])).repeat(BANDS, 2) < 0.3] = NODATA
    images[0, :, :, 3, 5] = NODATA  # never seen
    day = raw.day.numpy().astype(np.int64)
    turned = (day > 0) * ((day + 200 - 1) % 366 + 1)  # a season that begins in autumn
    order = np.argsort(np.where(turned > 0, (turned - 250) % 366, 999), axis=1)
    day, images = np.take_along_axis(turned, order, 1), images[np.arange(len(images))[:, None], order]
    valid = (day > 0) & (images != NODATA).any(axis=(2, 3, 4))
    mean, std = windows.card.mean, windows.card.std
    normal = np.where(images == NODATA, 0, (images - mean[:, None, None]) / std[:, None, None]).astype(np.float32)
    days = np.arange(270, 600, 20)
    series = EvenSeries(torch.from_numpy(mean), torch.from_numpy(std), torch.from_numpy(days))
    found = series(torch.from_numpy(normal), torch.from_numpy(day), torch.from_numpy(valid)).numpy()
    found = found.reshape(len(images), SIZE, SIZE, len(days), BANDS)
    for window, row, column in [(0, 3, 5), (0, 0, 0), (1, 4, 7), (2, 10, 10), (2, 2, 9)]:
        there = day[window] > 0
        expected = slow_series(images[window, there, :, row, column], day[window, there], days)
        np.testing.assert_allclose(found[window, row, column], expected, rtol=1e-4, atol=0.05)


def test_a_series_counted_from_another_year_is_the_same(windows, features):
    """Days that count from the year before (a training season from autumn on), a scene of one calendar year."""
    batch = load(windows, windows.indexes("test"))
    card, days = windows.card, torch.from_numpy(features.days)
    one = EvenSeries(torch.from_numpy(card.mean), torch.from_numpy(card.std), days)
    other = EvenSeries(torch.from_numpy(card.mean), torch.from_numpy(card.std), days + 365)
    given = (batch.images, batch.day, batch.valid)
    assert torch.equal(one(*given), other(*given))


def test_saved_loaded_exported(windows, features, tmp_path):
    learner, indexes = fitted("trees", features), windows.indexes("test")
    network, file = segmenter_of(learner), tmp_path / "segmenter.safetensors"
    params = load_params("demo")
    tensors = {f"network/{name}": value for name, value in network.state_dict().items()}
    checkpoints.save(file, tensors, about_pixels("trees", windows, params))
    again, card = load_segmenter(file, windows)
    assert (probabilities(again, windows, indexes) == probabilities(network, windows, indexes)).all()
    raw = load_raw(windows, indexes)
    mapped = FromRaw(again, card)(raw.images, raw.day).numpy()
    assert (mapped == learner.maps(indexes)).mean() > 0.999
    del tensors["network/learner.left"]
    checkpoints.save(file, tensors, about_pixels("trees", windows, params))
    with pytest.raises(CheckpointError, match="does not fit its own description"):
        load_segmenter(file)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["linear", "forest"])
def test_the_exported_program_takes_any_number_of_windows_and_dates(windows, features, tmp_path, kind):
    from cluemap.model.storage.exported_model import export_segmenter

    learner, file = fitted(kind, features), tmp_path / "segmenter.safetensors"
    tensors = {f"network/{name}": value for name, value in segmenter_of(learner).state_dict().items()}
    checkpoints.save(file, tensors, about_pixels(kind, windows, load_params("demo")))
    export_segmenter(file, tmp_path / "segmenter.pt2")
    program = torch.export.load(tmp_path / "segmenter.pt2").module()
    for count in (1, 3):
        raw = load_raw(windows, windows.indexes("validation")[:count])
        found = program(raw.images, raw.day).numpy()
        assert (found == learner.maps(windows.indexes("validation")[:count])).mean() > 0.999
