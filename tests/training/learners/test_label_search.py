"""Masks from image labels alone: learners of other windows, starts that are told apart, land that is told apart."""

import numpy as np
import pytest
from builders import write_prepared

from cluemap.data.series_features import SeriesFeatures
from cluemap.data.windows import Windows
from cluemap.errors import TrainingError
from cluemap.training.learners import label_search
from cluemap.training.learners.label_search import LabelSearch, searched
from cluemap.training.learners.linear_discriminant import LinearDiscriminant, Moments

WINDOWS, SIZE, CLASSES, FEATURES = 23, 7, 3, 5
MEANS = np.random.default_rng(11).normal(0, 4, (CLASSES + 1, FEATURES))


def land(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features n h w f, true ids n h w and image labels n k of windows of two halves, a class each."""
    draw = np.random.default_rng(seed)
    return seen(draw.integers(0, CLASSES + 1, (WINDOWS, 2)), draw)


def seen(halves: np.ndarray, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids n 2 of the windows' halves -> as `land`."""
    truth = np.repeat(halves[:, None], [4, 3], axis=2).repeat(SIZE, axis=1)
    features = MEANS[truth] + draw.normal(0, 1, (*truth.shape, FEATURES))
    labels = np.stack([(truth == k).any(axis=(1, 2)) for k in range(1, CLASSES + 1)], axis=1)
    return features.astype(np.float32), truth, labels


def test_a_window_is_asked_of_a_learner_of_the_other_folds_windows():
    features, truth, labels = land()
    search = LabelSearch(features, labels, labels, 0)
    masks = truth.astype(np.uint8)
    masks[::2, 0] = 255
    found = search.answers(masks)
    moments = Moments.of(features.reshape(-1, FEATURES))
    assert len({*search.fold}) == label_search.FOLDS
    for row in range(WINDOWS):
        others = search.fold != search.fold[row]
        model = LinearDiscriminant(FEATURES, CLASSES + 1, even=True, shrinkage=label_search.SHRINKAGE)
        known = masks[others] != 255
        model.add(*model.sums_of(moments.standardised(features[others][known]), masks[others][known].astype(np.int64)))
        expected = model.solve().probabilities(moments.standardised(features[row].reshape(-1, FEATURES)))
        np.testing.assert_allclose(found[row].reshape(-1, CLASSES + 1), expected, atol=1e-4)


def test_it_finds_what_the_image_labels_tell():
    features, truth, labels = land()
    found = LabelSearch(features, labels, labels, 0).from_start(0)
    assert (found.masks == truth).mean() > 0.95
    wrong = labels[np.random.default_rng(3).permutation(WINDOWS)]
    assert LabelSearch(features, wrong, wrong, 0).from_start(0).foretold < found.foretold - 0.1


def test_what_a_label_does_not_say_may_be_there_and_need_not():
    features, truth, labels = land()
    possible = labels.copy()
    possible[::3] = True  # of every third window nothing is known
    present = labels.copy()
    present[::3] = False
    found = LabelSearch(features, possible, present, 0).from_start(0)
    assert (found.masks == truth).mean() > 0.9


def test_a_class_that_one_window_names_is_not_lost():
    halves = np.array([[1, 0], [2, 0], [1, 2], [2, 1], [1, 0], [3, 2]])
    features, _, labels = seen(halves, np.random.default_rng(2))
    found = LabelSearch(features, labels, labels, 0).from_start(0)
    assert (found.masks[-1] == 3).mean() >= label_search.LEAST_SHARE


def test_every_round_keeps_the_classes_that_a_label_names(monkeypatch):
    features, _, labels = land()
    asked = []

    def spy(probabilities, present, share, real=label_search.at_least):
        asked.append((present, share))
        return real(probabilities, present, share)

    monkeypatch.setattr(label_search, "at_least", spy)
    LabelSearch(features, labels, labels, 0).from_start(0)
    assert len(asked) == label_search.ROUNDS
    assert all(share == label_search.LEAST_SHARE and (present[:, 1:] == labels).all() for present, share in asked)


def starts_that_foretell(monkeypatch, *scores: float) -> None:
    """Starts of the fixture's windows: the masks are all the start's number, the scores are these one after another."""
    left = iter(scores)
    ends = lambda self, number: label_search.Found(np.full((13, 7, 7), number, np.uint8), next(left))
    monkeypatch.setattr(LabelSearch, "from_start", ends)


@pytest.fixture
def windows(tmp_path) -> Windows:
    write_prepared(
        tmp_path / "windows", {"train": 13, "validation": 3, "test": 2}, classes=4, size=7, dates=(5, 11), bands=3
    )
    return Windows.open(tmp_path / "windows")


def test_the_start_that_foretells_most_gives_the_masks(windows, monkeypatch):
    masks, foretold = searched(windows, 3, seed=5)
    assert len(foretold) == 3
    assert masks.shape == (13, 7, 7)
    again, _ = searched(windows, 3, seed=5)
    np.testing.assert_array_equal(masks, again)
    for mask, label in zip(masks, windows.image_labels[windows.indexes("train")], strict=True):
        assert {*np.unique(mask)} <= {0, 255, *(np.flatnonzero(label) + 1)}
    starts_that_foretell(monkeypatch, -2.0, -1.0, -3.0)
    masks, foretold = searched(windows, 3, seed=5)
    assert foretold == [-2.0, -1.0, -3.0]
    assert (masks == 1).all()


def test_of_many_windows_a_part_is_searched(windows, monkeypatch):
    monkeypatch.setattr(label_search, "PIXELS", 6 * 7**2)
    masks, _ = searched(windows, 1, seed=0)
    taken = (masks != 255).any(axis=(1, 2))
    assert taken.sum() == 6
    for mask, label in zip(masks[taken], windows.image_labels[windows.indexes("train")][taken], strict=True):
        assert {*np.unique(mask)} <= {0, 255, *(np.flatnonzero(label) + 1)}


def test_series_are_seen_without_their_clouds(windows, monkeypatch):
    seen = []

    def spy(given, indexes, days, real=label_search.clear_features):
        seen.append((indexes.tolist(), days.tolist()))
        return real(given, indexes, days)

    monkeypatch.setattr(label_search, "clear_features", spy)
    searched(windows, 1, seed=0)
    assert seen == [(windows.indexes("train").tolist(), SeriesFeatures(windows).days.tolist())]


def test_too_few_windows_and_starts_that_find_nothing_are_errors(windows, monkeypatch):
    train = windows.indexes("train")
    with pytest.raises(TrainingError, match=r"compares windows, and 1 training window has an image label: give more"):
        searched(windows.hiding(train[1:], image_labels=True), 1, seed=0)
    starts_that_foretell(monkeypatch, np.nan, -1.0, np.nan, np.nan)
    assert (searched(windows, 2, seed=0)[0] == 1).all()
    with pytest.raises(TrainingError, match=r"told nothing apart in 13 windows"):
        searched(windows, 2, seed=0)
