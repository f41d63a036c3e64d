"""Labels of parcels in rounds: what is left alone decides first, and what is not left never wins."""

import numpy as np
import pytest

from cluemap.training.parcels import rounds
from cluemap.training.parcels.rounds import NONE, asked, settled, single


@pytest.fixture(autouse=True)
def few_trees(monkeypatch):
    monkeypatch.setattr(rounds, "TREES", 43)


def drawn(n=90, k=3):
    """Features that tell the classes apart, and for most parcels the true class and a wrong one."""
    generator = np.random.default_rng(4)
    truth = generator.integers(0, k, n)
    x = (np.eye(k)[truth] + 0.15 * generator.standard_normal((n, k))).astype(np.float32)
    may = np.eye(k, dtype=bool)[truth]
    may[np.arange(n), generator.integers(0, k, n)] = True  # one in three stays alone
    return x, may, truth


def test_where_one_class_is_left_it_is_the_label():
    may = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 0, 1]], bool)
    assert single(may).tolist() == [0, NONE, NONE, 2]


def test_rounds_find_the_class_among_those_that_are_left():
    x, may, truth = drawn()
    found = settled(x, may, 0.5, seed=0)
    assert (single(may) != NONE).mean() < 0.6
    assert (found == truth).mean() > 0.95
    assert may[np.arange(len(found)), found][found != NONE].all()
    assert (found == settled(x, may, 0.5, seed=0)).all()
    kept = single(may) != NONE
    assert (found[kept] == truth[kept]).all()


def test_what_is_not_sure_has_no_label():
    x, may, _ = drawn()
    x[40] = 1 / 3
    may[40] = True
    assert settled(x, may, 0.95, seed=0)[40] == NONE
    none = may.copy()
    none[7] = False
    assert settled(x, none, 0.0, seed=0)[7] == NONE


def test_one_class_alone_teaches_nothing():
    x, may, _ = drawn()
    may[:] = [True, True, False]
    may[:5] = [True, False, False]
    assert settled(x, may, 0.5, seed=0).tolist() == [0] * 5 + [NONE] * 85


def test_a_parcel_is_not_asked_of_trees_that_saw_it():
    """A wrong label is learned by heart by the trees that saw it; the others tell otherwise."""
    x, _, truth = drawn()
    labels = truth.copy()
    labels[11] = (truth[11] + 1) % 3
    shares = asked(x, labels, np.arange(90), 3, seed=0)
    assert shares[11].argmax() == truth[11]
