"""Unlikeness: against a slow oracle, its laws, and crops of the generator that were left out of the training."""

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf
from sklearn.metrics import roc_auc_score

from cluemap.data.synthetic.region import make_tile, render
from cluemap.errors import DataError
from cluemap.model.networks.pixel_segmenter import EvenSeries
from cluemap.statistics.unlikeness import FARTHEST, Unlikeness

FEATURES, TAUGHT, HELD = 5, 61, 43


def drawn(generator, count, shift=0.0):
    """Three classes that differ in the first two features."""
    which = generator.integers(0, 3, count)
    centres = np.array([[0, 0], [900, 0], [0, 900]]) + shift
    noise = generator.normal(0, 150, (count, FEATURES)) @ np.diag([1, 1, 3, 1, 0.2])
    noise[:, :2] += centres[which]
    return noise.astype(np.float32), which.astype(np.uint8)


@pytest.fixture
def sample():
    generator = np.random.default_rng(5)
    return (*drawn(generator, TAUGHT), drawn(generator, HELD)[0], drawn(generator, 29)[0])


def slow(taught, classes, pixels):
    """p 2: the distances, pixel by pixel, by projection onto what tells the classes apart."""
    taught, pixels = taught.astype(float), pixels.astype(float)
    mean, deviation = taught.mean(axis=0), taught.std(axis=0)
    standard = lambda series: np.clip((series - mean) / deviation, -FARTHEST, FARTHEST)
    known, found = standard(taught), []
    centres = np.array([known[classes == k].mean(axis=0) for k in np.unique(classes)])
    own = np.array([known[classes == k].mean(axis=0) for k in classes])
    values, vectors = np.linalg.eigh(ledoit_wolf(known - own, assume_centered=True)[0])
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    between = ((centres - centres.mean(axis=0)) @ root).T  # f k
    for pixel in standard(pixels):
        near, rest = [], []
        for centre in centres:
            away = root @ (pixel - centre)
            along = between @ np.linalg.lstsq(between, away, rcond=1e-4)[0]
            near.append(along @ along)
            rest.append((away - along) @ (away - along))
        assert np.ptp(rest) < 1e-6 * max(rest)
        found.append((min(near), rest[0]))
    return np.array(found)


def test_against_the_oracle(sample):
    taught, classes, held, pixels = sample
    one = Unlikeness.of(taught, classes, held)
    wanted, usual = slow(taught, classes, pixels), slow(taught, classes, held)
    np.testing.assert_allclose(one.distances(torch.from_numpy(pixels)).numpy().T, wanted, rtol=2e-3, atol=2e-3)
    fisher = lambda pair: -sum(np.log((1 + (usual[:, i] >= pair[i]).sum()) / (HELD + 1)) for i in range(2))
    held_out = np.array([fisher(pair) for pair in usual])
    percent = [int(100 * (held_out < fisher(pair) - 1e-5).sum() / HELD) for pair in wanted]
    assert one.percent(torch.from_numpy(pixels)).tolist() == percent


def test_percent_of_pixels_like_those_held_out_is_even(sample):
    taught, classes, _, _ = sample
    generator = np.random.default_rng(6)
    one = Unlikeness.of(taught, classes, drawn(generator, 1000)[0])
    found = one.percent(torch.from_numpy(drawn(generator, 1000)[0])).numpy()
    assert np.abs(np.quantile(found, [0.1, 0.5, 0.9]) - [10, 50, 90]).max() < 6
    assert found.max() <= 100
    strange = one.percent(torch.from_numpy(drawn(generator, 100, shift=1500.0)[0])).numpy()
    assert (strange >= 99).mean() > 0.95


def test_one_class_and_a_constant_feature(sample):
    taught, classes, held, _ = sample
    taught[:, 3] = held[:, 3] = 7
    one = Unlikeness.of(taught[classes == 1], classes[classes == 1], held)
    distances = one.distances(torch.from_numpy(taught)).numpy()
    assert np.isfinite(distances).all()
    assert (distances[0] == 0).all()  # nothing to tell apart
    assert np.median(distances[1, classes == 1]) < distances[1, classes == 2].min()


def test_nothing_taught(sample):
    with pytest.raises(DataError, match="0 series taught and 43 held out"):
        Unlikeness.of(sample[0][:0], sample[1][:0], sample[2])


def test_crops_that_were_left_out_are_unlike():
    """Every crop with enough land left out in turn: its pixels are more unlike than those of crops that are known."""
    dates = np.arange(np.datetime64("2019-03-01"), np.datetime64("2019-10-15"), np.timedelta64(25, "D"))
    scene = render(150, 150, make_tile(dates, (1, 0)), (3, 0))
    even = EvenSeries(torch.zeros(10), torch.ones(10), torch.arange(int(scene.days[0]), int(scene.days[-1]) + 1, 15))
    images = torch.from_numpy(np.where(scene.images < 0, 0, scene.images)[:, :, ::2, ::2]).float()[None]
    series = even(images, torch.from_numpy(scene.days.astype(int))[None], torch.ones(1, len(dates), dtype=torch.bool))
    labels, field = scene.labels[::2, ::2].ravel(), scene.parcels[::2, ::2].ravel()
    kept = (labels > 0) & (labels < 19)
    series, labels, field = series.numpy()[kept], labels[kept], field[kept]
    crops = [k for k in np.unique(labels) if len(np.unique(field[labels == k])) > 3]
    part = field % 3  # taught, held out, asked about
    found = []
    for crop in crops:
        known = labels != crop
        one = Unlikeness.of(series[known & (part == 0)], labels[known & (part == 0)], series[known & (part == 1)])
        asked = ~known | (part == 2)
        found.append(roc_auc_score(~known[asked], one.percent(torch.from_numpy(series[asked]))))
    assert len(found) > 4
    assert np.mean(found) > 0.7, found
    assert min(found) > 0.5, found
