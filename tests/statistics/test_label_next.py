"""What to label next: the three wishes one by one, and against random choice on simulated fields."""

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

from cluemap.errors import DataError
from cluemap.statistics.label_next import Candidates, label_next

NOTHING = np.zeros((0, 2))


def candidates(probabilities, features=None, places=None):
    n = len(probabilities)
    features = np.zeros((n, 2)) if features is None else np.array(features, float)
    places = np.arange(2.0 * n).reshape(n, 2) * 1e6 if places is None else np.array(places, float)
    return Candidates(np.array(probabilities, float), features, places)


def test_the_unsure_come_first():
    asked = label_next(candidates([[0.9, 0.1], [0.5, 0.5], [0.7, 0.3]]), NOTHING, 3, apart=0)
    assert asked.candidates[0] == 1
    np.testing.assert_allclose(asked.uncertainty[0], 1)
    assert sorted(asked.candidates) == [0, 1, 2]


def test_the_unlike_come_first_and_like_ones_once():
    features = [[0, 0], [5, 5], [5, 5.1], [-5, 0]]
    asked = label_next(candidates([[0.5, 0.5]] * 4, features), np.array([[0.0, 0.0]]), 2, apart=0)
    assert set(asked.candidates) in ({1, 3}, {2, 3})


def test_the_chosen_lie_apart():
    features, places = np.eye(3), [[0, 0], [10, 0], [5000, 0]]
    shares = [[0.5, 0.5], [0.5, 0.5], [0.55, 0.45]]
    made = Candidates(np.array(shares), features, np.array(places, float))
    assert label_next(made, np.zeros((0, 3)), 2, apart=1000).candidates.tolist() == [0, 2]
    assert label_next(made, np.zeros((0, 3)), 2, apart=0).candidates.tolist() == [0, 1]


def test_units_of_the_features_do_not_matter():
    generator = np.random.default_rng(0)
    shares, features = generator.dirichlet([1, 1, 1], 40), generator.standard_normal((40, 4))
    places, labelled = generator.uniform(0, 1e4, (40, 2)), generator.standard_normal((5, 4))
    stretch = np.array([1, 1e3, 1e-3, 7.0])
    plain = label_next(Candidates(shares, features, places), labelled, 8, 500)
    other = label_next(Candidates(shares, features * stretch + 3, places), labelled * stretch + 3, 8, 500)
    np.testing.assert_array_equal(plain.candidates, other.candidates)
    assert len(set(plain.candidates)) == 8


def test_more_than_there_are_is_refused():
    with pytest.raises(DataError, match="4 of 3 candidates"):
        label_next(candidates([[0.5, 0.5]] * 3), NOTHING, 4, 0)


def fields(n, seed, classes=8, width=12):
    """Series of fields: rare and frequent crops, each of three ways to grow it, regions that differ."""
    crops = np.random.default_rng(99)
    means = 1.6 * crops.standard_normal((classes, 3, width))
    generator = np.random.default_rng(seed)
    share = 0.6 ** np.arange(classes)
    labels = generator.choice(classes, n, p=share / share.sum())
    places = generator.uniform(0, 20_000, (n, 2))
    series = means[labels, generator.choice(3, n, p=[0.6, 0.3, 0.1])]
    return series + places[:, :1] / 20_000 + generator.standard_normal((n, width)), labels, places


def score_with(series, labels, chosen, seed):
    """Mean recall over the classes on other fields."""
    model = RandomForestClassifier(25, random_state=seed).fit(series[chosen], labels[chosen])
    others, truth, _ = fields(600, seed + 1000)
    found = model.predict(others)
    return np.mean([(found[truth == k] == k).mean() for k in np.unique(truth)]), model


def ask(series, places, model, chosen, count):
    left = np.setdiff1d(np.arange(len(series)), chosen)
    made = Candidates(model.predict_proba(series[left]), series[left], places[left])
    return left[label_next(made, series[chosen], count, apart=1000).candidates]


@pytest.mark.slow
def test_labels_that_are_asked_for_beat_as_many_at_random():
    """400 fields, a tenth labelled; as many again in two rounds; 5 seeds."""
    asked, drawn = [], []
    for seed in range(5):
        series, labels, places = fields(400, seed)
        generator = np.random.default_rng(seed)
        chosen = generator.choice(400, 40, replace=False)
        more = np.setdiff1d(generator.permutation(400), chosen)
        more = generator.permutation(more)[:40]
        drawn.append(score_with(series, labels, np.r_[chosen, more], seed)[0])
        for _ in range(2):
            model = score_with(series, labels, chosen, seed)[1]
            chosen = np.r_[chosen, ask(series, places, model, chosen, 20)]
        asked.append(score_with(series, labels, chosen, seed)[0])
    assert len(set(chosen)) == 80
    assert np.mean(asked) > np.mean(drawn) + 0.02
    assert sum(np.array(asked) > np.array(drawn)) >= 4
