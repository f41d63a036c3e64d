"""Masks under the image label: by hand, against a slow oracle, and the laws that make them honest."""

import math

import numpy as np
import pytest

from cluemap.model.method.refinement import agreement, allowed, constrained, decided

N, H, W, K = 3, 5, 7, 4


def probabilities(background: bool, seed: int = 0) -> np.ndarray:
    found = np.random.default_rng(seed).uniform(size=(N, H, W, K + background)).astype(np.float32)
    return found / found.sum(axis=-1, keepdims=True)


LABELS = np.array([[1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]], bool)


@pytest.mark.parametrize("background", [True, False])
def test_against_a_slow_answer(background):
    found = probabilities(background)
    kept = constrained(found, allowed(LABELS, background))
    masks = decided(kept, 0.55, background)
    for n, y, x in np.ndindex(N, H, W):
        ids = [0] * background + [k + 1 for k in range(K) if LABELS[n, k]]
        mine = {label: float(found[n, y, x, label - (not background)]) for label in ids}
        total = sum(mine.values())
        expected = 255
        if total:
            best = max(mine, key=mine.get)
            expected = best if mine[best] / total >= 0.55 else 255
            np.testing.assert_allclose(kept[n, y, x].sum(), 1, rtol=1e-5)
        else:
            assert not kept[n, y, x].any()
        assert masks[n, y, x] == expected


def test_an_absent_class_never_wins_however_sure_the_learner_is():
    sure = np.zeros((N, H, W, K + 1), np.float32)
    sure[..., 2] = 1.0  # class 2 is in no image label
    kept = constrained(sure, allowed(LABELS, True))
    masks = decided(kept, 0.0, True)
    assert not (masks == 2).any()
    assert (kept[0, ..., [0, 1, 3]] == np.float32(1 / 3)).all()  # nothing else is known: evenly
    assert (decided(kept, 0.7, True)[:2] == 255).all()
    assert (masks[2] == 0).all()  # only the background may be there


def test_without_a_background_a_window_without_a_label_stays_undecided():
    masks = decided(constrained(probabilities(False), allowed(LABELS, False)), 0.0, False)
    assert (masks[2] == 255).all()
    assert (masks[1] == 4).all()  # a single class allowed: it takes all


def test_the_order_of_the_classes_does_not_matter():
    order = np.array([2, 0, 3, 1])
    masks = decided(constrained(probabilities(False), allowed(LABELS, False)), 0.4, False)
    turned = decided(constrained(probabilities(False)[..., order], allowed(LABELS[:, order], False)), 0.4, False)
    known = masks != 255
    np.testing.assert_array_equal(known, turned != 255)
    np.testing.assert_array_equal(order[turned[known] - 1] + 1, masks[known])


def test_agreement_counts_what_both_decide():
    one, other = np.array([[[1, 2, 255, 3]]], np.uint8), np.array([[[1, 3, 2, 255]]], np.uint8)
    assert agreement(one, other) == 0.5
    assert agreement(one, one) == 1.0
    assert math.isnan(agreement(one, np.full_like(one, 255)))
