"""Image labels by counting pixels one by one; official splits written out."""

import numpy as np
import pytest

from cluemap.data.image_labels import certain_classes, image_labels, known_labels, split_of
from cluemap.data.patches import VOID, Knowledge


def test_image_labels_count_pixels():
    generator = np.random.default_rng(0)
    masks = generator.choice([0, 1, 2, 3, 5, 255], (7, 11, 13), p=[0.6, 0.1, 0.05, 0.02, 0.13, 0.1]).astype(np.uint8)
    labels = image_labels(masks, 5, 0.02)
    assert labels.shape == (7, 5)
    assert labels.dtype == bool
    for n in range(7):
        for k in range(1, 6):
            pixels = sum(int(value == k) for value in masks[n].ravel())
            assert labels[n, k - 1] == (pixels / (11 * 13) > 0.02)
    assert 0 < labels[:, 2].sum() < 7, "a class near the limit should be on both sides of it"
    assert not labels[:, 3].any()


@pytest.mark.parametrize(("pixels", "present"), [(5, False), (6, True), (576, True)])
def test_six_of_576_pixels_are_more_than_one_percent(pixels, present):
    mask = np.full((1, 576), 255, np.uint8)  # void pixels count like background
    mask[0, :pixels] = 2
    assert image_labels(mask.reshape(1, 24, 24), 3, 0.01).tolist() == [[False, present, False]]


def test_exactly_the_share_is_not_more_than_it():
    mask = np.zeros((1, 10, 10), np.uint8)
    mask[0, 0, 0] = 1
    assert not image_labels(mask, 1, 0.01).any()


def test_official_splits():
    written_out = {1: "TTTVE", 2: "ETTTV", 3: "VETTT", 4: "TVETT", 5: "TTVET"}  # of folds 1, 2, 3, 4, 5
    names = {"T": "train", "V": "validation", "E": "test"}
    for official, letters in written_out.items():
        assert [split_of(fold, official) for fold in range(1, 6)] == [names[letter] for letter in letters]


WHOLE = slice(0, 10), slice(0, 10)
MASK = np.kron(np.array([[1, 2], [VOID, 2]]), np.ones((5, 5), int)).astype(np.uint8)  # class 1, 2, and land without


@pytest.mark.parametrize(
    ("silence", "hidden", "complete", "certain"),
    [
        ("absent", None, False, [True, True, True, True]),
        ("unknown", None, False, [True, True, False, False]),
        ("unknown", None, True, [True, True, True, True]),
        ("absent", 3, False, [True, True, False, True]),  # class 3 grows on a field of another split
        ("absent", 2, False, [True, True, True, True]),  # hidden here, but shown there
        ("unknown", 3, True, [True, True, False, True]),
    ],
)
def test_three_states(silence, hidden, complete, certain):
    labels = np.where(MASK == VOID, 1, MASK).astype(np.uint8) if complete else MASK
    there = None if hidden is None else np.where(MASK == VOID, hidden, VOID).astype(np.uint8)
    known = Knowledge(4, 0.01, silence=silence, hidden=there)
    held = known_labels(labels, known, *WHOLE, 0.01)
    assert held.tolist() == [True, True, False, False]
    assert certain_classes(held, labels, known, *WHOLE).tolist() == certain


def test_lists_of_areas_may_be_complete_or_not():
    areas, crops = np.zeros((10, 10), np.int32), np.array([[True, False, True]])
    empty = np.full((10, 10), VOID, np.uint8)
    for silence, certain in (("absent", [True] * 3), ("unknown", [True, False, True])):
        known = Knowledge(3, None, areas, crops, 0.5, silence)
        held = known_labels(empty, known, *WHOLE, 0.01)
        assert held.tolist() == [True, False, True]
        assert certain_classes(held, empty, known, *WHOLE).tolist() == certain
