"""Scores of parcels by count and by area, the baselines' features, the focal loss."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, jaccard_score

from cluemap.data.patches import NODATA
from cluemap.model.method.losses import focal_loss
from cluemap.params import BaselineParams
from cluemap.training.parcels import baselines
from cluemap.training.parcels.parcel_scores import accuracy_interval, counts_of, parcel_scores


def drawn(n=61, k=4):
    generator = np.random.default_rng(5)
    truth = generator.integers(0, k, n)
    shares = generator.dirichlet(np.ones(k), n) + 0.25 * np.eye(k)[truth]
    return shares / shares.sum(axis=1, keepdims=True), truth, generator.uniform(100, 90_000, n)


def test_scores_are_scikit_learns():
    shares, truth, areas = drawn()
    told = shares.argmax(axis=1)
    found = parcel_scores(shares, truth, areas, ["a", "b", "c", "d"])
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, told))
    assert found["miou"] == pytest.approx(jaccard_score(truth, told, average="macro"))
    assert found["macro_f1"] == pytest.approx(f1_score(truth, told, average="macro"))
    by_area = found["by_area"]
    assert by_area["overall_accuracy"] == pytest.approx(accuracy_score(truth, told, sample_weight=areas))
    assert by_area["miou"] == pytest.approx(jaccard_score(truth, told, average="macro", sample_weight=areas))
    assert np.array(found["confusion"]).sum() == 61
    low, high = found["accuracy_interval"]
    assert low < found["accuracy"] < high


def test_interval_by_hand():
    """Wilson, 8 of 10: (p + z2/2n +- z sqrt(p(1-p)/n + z2/4n2)) / (1 + z2/n)."""
    z, p, n = 1.959964, 0.8, 10
    middle, half = (p + z**2 / 20) / (1 + z**2 / n), z * np.sqrt(p * 0.2 / n + z**2 / 400) / (1 + z**2 / n)
    assert accuracy_interval(8, 10) == pytest.approx([middle - half, middle + half], rel=1e-5)


def test_no_parcel_gives_no_score():
    found = parcel_scores(np.zeros((0, 3)), np.zeros(0, np.int64), np.zeros(0), ["a", "b", "c"])
    assert np.isnan(found["accuracy"])
    assert counts_of(np.zeros(0, np.int64), np.zeros(0, np.int64), 3).shape == (3, 4)


def test_median_series_by_hand():
    """Dates 10, 20, 40; at date 20 nobody was seen; one pixel misses date 40."""
    pixels = np.zeros((3, 3, 2), np.int16)
    pixels[:, 0] = [[1, 10], [2, 20], [9, 90]]
    pixels[:, 1] = NODATA
    pixels[:, 2] = [[4, 40], [8, 80], [NODATA, NODATA]]
    found = baselines.median_series(pixels, np.array([10, 20, 40]), np.array([0, 10, 25, 40, 90]))
    np.testing.assert_allclose(found, [[2, 20], [2, 20], [4, 40], [6, 60], [6, 60]], rtol=1e-6)


def test_baselines_learn_and_leave_absent_classes_out():
    generator = np.random.default_rng(0)
    target = np.array([0, 2] * 40)
    x = (target[:, None] + 0.1 * generator.standard_normal((80, 3))).astype(np.float32)
    made = baselines.models(BaselineParams(pixels=1, rounds=5, leaves=4, forest=7), seed=0)
    assert set(made) == {"trees", "forest"}
    for model in made.values():
        found = baselines.probabilities(model, x, target, x, 4)
        assert (found.argmax(axis=1) == target).all()
        assert (found[:, [1, 3]] == 0).all()
    assert set(baselines.models(BaselineParams(pixels=1, rounds=5, leaves=4, forest=0), seed=0)) == {"trees"}
    alone = baselines.probabilities(None, x, np.full(80, 1), x, 3)
    assert (alone.argmax(axis=1) == 1).all()


def test_focal_loss():
    logits, target = torch.tensor([[1.0, 2.0, -1.0], [0.3, 0.1, 0.0]]), torch.tensor([1, 2])
    shares = torch.exp(logits) / torch.exp(logits).sum(dim=1, keepdim=True)
    p = torch.stack([shares[0, 1], shares[1, 2]])
    torch.testing.assert_close(focal_loss(logits, target, 2.0), (-((1 - p) ** 2) * p.log()).mean())
    torch.testing.assert_close(focal_loss(logits, target, 0.0), torch.nn.functional.cross_entropy(logits, target))
    parts = [focal_loss(logits[i : i + 1], target[i : i + 1], 1.0, lambda x: 2 * x) for i in range(2)]
    torch.testing.assert_close(sum(parts), focal_loss(logits, target, 1.0))
