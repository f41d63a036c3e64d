"""Pooled scores against slow counting; laws of the intervals."""

import numpy as np
import pytest

from cluemap.errors import DataError
from cluemap.statistics.pooled_scores import (
    confusion_of,
    confusions,
    draws,
    interval,
    lead,
    pooled,
    score_table,
)
from cluemap.training.metrics import Ids, confusion, scores

IDS = Ids(3, True)
NAMES = ["background", "a", "b", "c"]


def pixels(seed=0, fields=31, right=0.7):
    """Truth, prediction, field, unit of pixels in fields of unequal size; background land in 5 blocks."""
    generator = np.random.default_rng(seed)
    truth, prediction, field, unit = [], [], [], []
    for number in range(fields):
        size, crop = int(generator.integers(2, 41)), int(generator.integers(1, 4))
        said = crop if generator.random() < right else int(generator.integers(0, 4))
        own = np.where(generator.random(size) < 0.9, said, generator.integers(0, 4, size))
        truth += [crop] * size
        prediction += own.tolist()
        field += [number] * size
        unit += [number] * size
    for block in range(5):
        truth += [0] * 50
        prediction += generator.choice([0, 1], 50, p=[0.9, 0.1]).tolist()
        field += [-1] * 50
        unit += [-1 - block] * 50
    truth += [255] * 7  # not known: counts nowhere
    prediction += [1] * 7
    field += [2] * 7
    unit += [2] * 7
    prediction[5] = 255  # no prediction
    return tuple(np.array(one, kind) for one, kind in zip((truth, prediction, field, unit), "BBll", strict=True))


def test_pixels_against_the_plain_confusion():
    truth, prediction, field, unit = pixels()
    found = pooled(truth, prediction, field, unit, IDS)
    np.testing.assert_array_equal(confusion_of(found, "pixels"), confusion(truth, prediction, IDS))


def test_fields_by_hand():
    truth, prediction, field, unit = pixels(3)
    expected = np.zeros((4, 5), int)
    for number in range(31):
        own = (field == number) & (truth != 255)
        counts = np.bincount(np.where(prediction[own] == 255, 4, prediction[own]), minlength=5)
        expected[truth[own][0], counts.argmax()] += 1
    np.testing.assert_array_equal(confusion_of(pooled(truth, prediction, field, unit, IDS), "fields"), expected)


@pytest.mark.parametrize("level", ["pixels", "fields"])
def test_a_draw_is_its_units_again_and_again(level):
    """Against arrays that hold a drawn field as often as it was drawn."""
    truth, prediction, field, unit = pixels(1)
    found = pooled(truth, prediction, field, unit, IDS)
    weights = draws(36, 7, seed=2)
    assert (weights.sum(axis=1) == 36).all()
    drawn = confusions(found, level, weights)
    units = np.unique(unit)
    for one, counts in zip(weights, drawn, strict=True):
        parts = [np.flatnonzero(unit == units[u]) for u in range(36) for _ in range(one[u])]
        copies = [np.full(len(part), number) for number, part in enumerate(parts)]
        rows, copy = np.concatenate(parts), np.concatenate(copies)
        again = np.where(field[rows] < 0, -1, copy)
        expected = confusion_of(pooled(truth[rows], prediction[rows], again, copy, IDS), level)
        np.testing.assert_array_equal(counts, expected)


def test_the_table_holds_every_score_with_its_interval():
    truth, prediction, field, unit = pixels(4)
    table = score_table(pooled(truth, prediction, field, unit, IDS), NAMES, draws(36, 200))
    exact = scores(confusion(truth, prediction, IDS))
    rows = table[table["level"] == "pixels"].set_index(["measure", "class"])
    assert rows.loc[("user's accuracy", "b"), "value"] == pytest.approx(exact.precision[2])
    assert rows.loc[("producer's accuracy", "c"), "value"] == pytest.approx(exact.recall[3])
    assert rows.loc[("mIoU", ""), "value"] == pytest.approx(float(exact.miou))
    known = table.dropna()
    assert (known["low"] <= known["value"] + 1e-9).all()
    assert (known["value"] <= known["high"] + 1e-9).all()
    assert table[(table["level"] == "fields") & (table["class"] == "background")]["value"].isna().sum() >= 3


def test_intervals_over_fields_are_wider_than_over_pixels():
    truth, prediction, field, unit = pixels(5)
    whole = pooled(truth, prediction, field, unit, IDS)
    alone = pooled(truth, prediction, field, np.arange(len(truth)), IDS)
    width = {}
    for name, one in (("fields", whole), ("pixels", alone)):
        table = score_table(one, NAMES, draws(int(one.unit.max()) + 1, 200))
        low, high = table.loc[table["measure"] == "overall accuracy", ["low", "high"]].iloc[0]
        width[name] = high - low
    assert width["fields"] > 2 * width["pixels"]


def test_a_lead_is_told_more_surely_than_two_intervals_apart():
    """Two models that err in the same fields: their difference has a narrow interval."""
    truth, prediction, field, unit = pixels(6)
    other = prediction.copy()
    other[(field == 3) | (field == 8)] = truth[(field == 3) | (field == 8)]
    one, better = (pooled(truth, each, field, unit, IDS) for each in (prediction, other))
    weights = draws(36, 400)
    value, low, high = lead(better, one, "pixels", "overall_accuracy", weights)
    assert value == pytest.approx((other == truth)[truth != 255].mean() - (prediction == truth)[truth != 255].mean())
    assert -0.01 < low <= value <= high
    drawn = scores(confusions(one, "pixels", weights)).overall_accuracy
    alone = interval(drawn, float((prediction == truth)[truth != 255].mean()), 36)
    assert high - low < 0.6 * (alone[1] - alone[0])
    assert lead(one, one, "fields", "miou", weights) == (0.0, 0.0, 0.0)


def test_intervals_cover_at_about_their_level():
    """Fields drawn from a world whose accuracy is known."""
    held = 0
    for seed in range(60):
        truth, prediction, field, unit = pixels(100 + seed, fields=80)
        crops = field >= 0
        one = pooled(truth[crops], prediction[crops], field[crops], unit[crops], IDS)
        table = score_table(one, NAMES, draws(80, 200, seed))
        low, high = table.loc[(table["level"] == "fields") & (table["class"] == ""), ["low", "high"]].iloc[0]
        held += low <= 0.7 + 0.3 / 4 <= high
    assert 51 <= held <= 60


def test_nothing_labelled():
    with pytest.raises(DataError, match="no test pixel has a label"):
        pooled(*(np.full(4, 255, np.uint8) for _ in range(2)), np.zeros(4, int), np.zeros(4, int), IDS)


def test_few_units_have_wider_intervals():
    """As the interval of a mean of so many numbers, by Student's distribution."""
    values = np.random.default_rng(0).normal(0.5, 0.01, 100_000)
    low, high = interval(values, 0.5, 6)
    assert (high - low) / 2 == pytest.approx(0.01 * 2.5706 * np.sqrt(6 / 5), rel=0.01)
    low, high = interval(values, 0.5, 10_000)
    assert (high - low) / 2 == pytest.approx(0.0196, rel=0.01)
    assert all(np.isnan(interval(np.full(3, np.nan), 0.5, 6)))
