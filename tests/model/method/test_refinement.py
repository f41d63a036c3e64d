"""Masks under the image label: by hand, against a slow oracle, and the laws that make them honest."""

import math

import numpy as np

from cluemap.model.method.refinement import agreement, allowed, at_least, constrained, decided, packed

N, H, W, K = 3, 5, 7, 4


def probabilities(seed: int = 0) -> np.ndarray:
    found = np.random.default_rng(seed).uniform(size=(N, H, W, K + 1)).astype(np.float32)
    return found / found.sum(axis=-1, keepdims=True)


LABELS = np.array([[1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]], bool)


def test_against_a_slow_answer():
    found = probabilities()
    kept = constrained(found, allowed(LABELS))
    masks = decided(kept, 0.55)
    for n, y, x in np.ndindex(N, H, W):
        ids = [0] + [k + 1 for k in range(K) if LABELS[n, k]]
        mine = {label: float(found[n, y, x, label]) for label in ids}
        total = sum(mine.values())
        best = max(mine, key=mine.get)
        np.testing.assert_allclose(kept[n, y, x].sum(), 1, rtol=1e-5)
        assert masks[n, y, x] == (best if mine[best] / total >= 0.55 else 255)


def test_an_absent_class_never_wins_however_sure_the_learner_is():
    sure = np.zeros((N, H, W, K + 1), np.float32)
    sure[..., 2] = 1.0  # class 2 is in no image label
    kept = constrained(sure, allowed(LABELS))
    masks = decided(kept, 0.0)
    assert not (masks == 2).any()
    assert (kept[0, ..., [0, 1, 3]] == np.float32(1 / 3)).all()  # nothing else is known: evenly
    assert (decided(kept, 0.7)[:2] == 255).all()
    assert (masks[2] == 0).all()  # only the background may be there


def test_a_class_that_is_there_keeps_its_least_share_and_its_pixels_their_order():
    kept = constrained(probabilities(), allowed(LABELS))
    kept[0, ..., 3] *= 1e-3  # the learner hardly knows class 3
    kept = kept / kept.sum(axis=-1, keepdims=True)
    raised = at_least(kept, allowed(LABELS), 0.2)
    assert kept[0, ..., 3].mean() < 0.01
    assert raised[0, ..., 3].mean() >= 0.2
    np.testing.assert_allclose(raised.sum(axis=-1), 1, rtol=1e-5)
    assert (raised[~np.broadcast_to(allowed(LABELS)[:, None, None], raised.shape)] == 0).all()
    ratio = raised[0, ..., 3] / raised[0, ..., 0] / (kept[0, ..., 3] / kept[0, ..., 0])
    np.testing.assert_allclose(ratio, ratio.flat[0], rtol=1e-4)  # one number for the whole window
    np.testing.assert_array_equal(raised[1:], kept[1:])  # those have it already
    np.testing.assert_array_equal(at_least(kept, allowed(LABELS), 0.0), kept)
    never = kept.copy()
    never[0, ..., 3] = 0
    assert (at_least(never, allowed(LABELS), 0.2)[0, ..., 3] == 0).all()  # nothing to raise


def test_the_order_of_the_classes_does_not_matter():
    order = np.array([2, 0, 3, 1])
    ids = np.concatenate([[0], order + 1])
    masks = decided(constrained(probabilities(), allowed(LABELS)), 0.4)
    turned = decided(constrained(probabilities()[..., ids], allowed(LABELS[:, order])), 0.4)
    known = masks != 255
    np.testing.assert_array_equal(known, turned != 255)
    np.testing.assert_array_equal(ids[turned[known]], masks[known])


def test_agreement_counts_what_both_decide():
    one, other = np.array([[[1, 2, 255, 3]]], np.uint8), np.array([[[1, 3, 2, 255]]], np.uint8)
    assert agreement(one, other) == 0.5
    assert agreement(one, one) == 1.0
    assert math.isnan(agreement(one, np.full_like(one, 255)))


def test_probabilities_in_bytes_keep_what_is_sure_and_lose_no_more_than_half_a_step():
    shares = np.random.default_rng(0).dirichlet([0.3] * 5, (2, 3, 7)).astype(np.float32)
    shares[0, 0, 0] = [0, 1, 0, 0, 0]
    found = packed(shares)
    assert found.dtype == np.uint8
    assert found[0, 0, 0].tolist() == [0, 255, 0, 0, 0]
    assert np.abs(found / 255 - shares).max() <= 0.5 / 255 + 1e-6
