"""The linear learner's maths: against scikit-learn where the two agree, by parts, and what even priors mean."""

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from cluemap.training.learners.linear_discriminant import FARTHEST, SHRINKAGE, LinearDiscriminant, Moments

P, F, K = 211, 7, 3


def pixels(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    labels = draw.choice(K, P, p=[0.6, 0.3, 0.1])
    return (draw.normal(size=(P, F)) @ draw.normal(size=(F, F)) + labels[:, None]).astype(np.float32), labels


def fitted(even: bool, shrinkage: float = SHRINKAGE) -> LinearDiscriminant:
    x, labels = pixels()
    model = LinearDiscriminant(F, K, even, shrinkage)
    for start in range(0, P, 50):  # in parts
        model.add(*model.sums_of(x[start : start + 50], labels[start : start + 50]))
    return model.solve()


def test_with_the_masks_priors_it_is_scikit_learns():
    x, labels = pixels()
    theirs = LinearDiscriminantAnalysis(solver="lsqr").fit(x, labels).predict_proba(x)
    np.testing.assert_allclose(fitted(even=False, shrinkage=0.0).probabilities(x), theirs, atol=2e-4)


def test_even_priors_take_the_class_sizes_out():
    x, _ = pixels()
    own, even = fitted(even=False), fitted(even=True)
    ratio = np.log(own.probabilities(x)) - np.log(even.probabilities(x))
    ratio -= ratio[:, :1]
    expected = np.log(own.sizes / own.sizes[0])
    np.testing.assert_allclose(ratio, np.broadcast_to(expected, ratio.shape), atol=1e-3)


def test_a_class_without_pixels_is_never_answered():
    x, labels = pixels()
    model = LinearDiscriminant(F, K + 1, even=True)
    model.add(*model.sums_of(x, labels))
    found = model.solve().probabilities(x)
    assert (found[:, K] == 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)


def test_moments_by_parts_and_the_cut():
    x, _ = pixels(1)
    moments = Moments.none(F)
    moments.add(Moments.of(x[:80]))
    moments.add(Moments.of(x[80:]))
    np.testing.assert_allclose(moments.standardised(x), (x - x.mean(axis=0)) / x.std(axis=0), atol=1e-3)
    assert moments.standardised(x + 1e6).max() == FARTHEST
