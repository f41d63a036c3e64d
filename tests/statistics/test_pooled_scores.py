"""Pooled scores against slow counting; laws of the intervals."""

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap
from scipy.stats import t as student_t

from cluemap.errors import DataError
from cluemap.statistics.pooled_scores import (
    cases_of,
    confusion_of,
    confusions,
    difference_interval,
    draws,
    lead,
    pooled,
    score_table,
    share_interval,
    standard_error,
)
from cluemap.training.metrics import Ids, confusion, scores

IDS = Ids(3, True)
NAMES = ["background", "a", "b", "c"]
MANY = 10**7  # units: Student's distribution is the normal one


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
    assert -0.03 < low <= value <= high < 2 * value + 0.03
    table = score_table(one, NAMES, weights)
    alone = table.loc[(table["level"] == "pixels") & (table["measure"] == "overall accuracy"), ["low", "high"]].iloc[0]
    assert high - low < 0.6 * (alone["high"] - alone["low"])
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


@pytest.mark.parametrize("key", ["overall_accuracy", "miou"])
def test_the_spread_of_the_draws_is_scipys(key):
    """With units as scipy's data, and arrays that hold a drawn unit's pixels as often as it was drawn."""
    truth, prediction, field, unit = pixels(8)
    units = np.unique(unit)
    parts = [np.flatnonzero((unit == number) & (truth != 255)) for number in units]

    def score(chosen):
        rows = np.concatenate([parts[number] for number in chosen])
        return float(getattr(scores(confusion(truth[rows], prediction[rows], IDS)), key))

    given = (np.arange(len(units)),)
    expected = bootstrap(given, score, vectorized=False, n_resamples=2000, method="percentile", rng=1).standard_error
    drawn = scores(confusions(pooled(truth, prediction, field, unit, IDS), "pixels", draws(len(units), 4000)))
    assert getattr(drawn, key).std() == pytest.approx(expected, rel=0.06)


def test_fields_that_a_class_is_in():
    """Counted one by one; a block's land without fields counts as one, and for pixels only."""
    truth, prediction, field, unit = pixels(9)
    one = pooled(truth, prediction, field, unit, IDS)
    by_pixels, by_fields = cases_of(one, "pixels"), cases_of(one, "fields")
    for k in range(4):
        true = {number for number in unit if (truth[unit == number] == k).any()}
        said = {number for number in unit if (prediction[(unit == number) & (truth != 255)] == k).any()}
        assert by_pixels["recall"][k] == len(true)
        assert by_pixels["precision"][k] == len(said)
        assert by_pixels["iou"][k] == by_pixels["f1"][k] == len(true | said)
    assert by_fields["recall"].tolist() == np.bincount([truth[field == number][0] for number in range(31)]).tolist()
    assert by_fields["precision"].sum() == 31


def test_a_class_that_is_all_right_is_not_sure():
    """Two fields of class a, three of b in four blocks, all right: nobody knows them to a percent."""
    truth, field = np.repeat([1, 1, 2, 2, 2], 9).astype(np.uint8), np.repeat(np.arange(5), 9)
    one = pooled(truth, truth, field, np.repeat([0, 0, 1, 2, 3], 9), IDS)
    table = score_table(one, NAMES, draws(4, 100)).set_index(["level", "measure", "class"])

    def lowest(fields):  # the exact interval's end: so much right gives none wrong in 2.5 %; Student's, 3 degrees
        return 0.025 ** (1 / (fields * (1.959964 / 3.182446) ** 2))

    for measure in ("user's accuracy", "producer's accuracy", "F1", "IoU"):
        for name, fields in (("a", 2), ("b", 3)):
            found = table.loc[("fields", measure, name), ["value", "low", "high"]].to_numpy(float)
            assert found == pytest.approx((1.0, lowest(fields), 1.0), abs=1e-6)
    for measure in ("overall accuracy", "balanced accuracy", "mIoU"):
        assert table.loc[("fields", measure, ""), "low"] == pytest.approx(lowest(5), abs=1e-6)


def test_nothing_labelled():
    with pytest.raises(DataError, match="no test pixel has a label"):
        pooled(*(np.full(4, 255, np.uint8) for _ in range(2)), np.zeros(4, int), np.zeros(4, int), IDS)


@pytest.mark.parametrize(("right", "of"), [(3, 7), (97, 101), (1, 53), (7, 7), (0, 5)])
def test_independent_cases_have_the_exact_interval(right, of):
    value = right / of
    error = np.sqrt(value * (1 - value) / of)
    expected = binomtest(right, of).proportion_ci(0.95, "exact")
    assert share_interval(value, error, of, MANY) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_cases_that_err_together_count_as_fewer():
    """An error twice that of 100 independent cases is that of 25."""
    single = share_interval(0.8, np.sqrt(0.16 / 25), 100, MANY)
    assert share_interval(0.8, 2 * np.sqrt(0.16 / 100), 100, MANY) == pytest.approx(single)
    assert single[1] - single[0] > 1.8 * np.subtract(*share_interval(0.8, np.sqrt(0.16 / 100), 100, MANY)[::-1])


def test_a_standard_error_is_scipys_for_one_unit_less():
    values = np.random.default_rng(0).gamma(2.0, size=11)
    drawn = values[np.random.default_rng(1).integers(0, 11, (20_000, 11))].mean(axis=1)
    expected = bootstrap((values,), np.mean, n_resamples=20_000, rng=2).standard_error * np.sqrt(11 / 10)
    assert standard_error(drawn, 11) == pytest.approx(expected, rel=0.02)
    assert standard_error(drawn, 11) == pytest.approx(values.std(ddof=1) / np.sqrt(11), rel=0.02)
    holes = np.concatenate([drawn, np.full(500, np.nan)])
    assert standard_error(holes, 11) == pytest.approx(standard_error(drawn, 11))


def test_a_difference_has_students_interval():
    values = np.random.default_rng(3).normal(0.5, 0.05, 6)
    error = values.std(ddof=1) / np.sqrt(6)
    expected = student_t.interval(0.95, 5, values.mean(), error)
    assert difference_interval(values.mean(), error, 6) == pytest.approx(expected)
    low, high = share_interval(0.5, 0.01, 6, 6)  # in the middle a share's is all but the same
    assert (high - low) / 2 == pytest.approx(0.01 * 2.5706, rel=0.03)


def test_an_interval_stays_within_what_can_be():
    assert difference_interval(0.99, 0.05, 9)[1] == 1.0
    assert difference_interval(-0.97, 0.1, 9)[0] == -1.0
    low, high = share_interval(0.999, 0.2, 9, 9)
    assert 0.0 <= low < 0.999 < high <= 1.0


def test_no_mistake_is_no_proof():
    """An error of rounding is none."""
    for error in (0.0, 1e-16):
        assert share_interval(1.0, error, 4, 16)[0] < 0.6
        assert share_interval(0.7, error, 1, 16)[1] - share_interval(0.7, error, 1, 16)[0] > 0.6


def test_what_has_no_value_or_one_unit():
    assert all(np.isnan(share_interval(float("nan"), 0.1, 3, 5)))
    assert all(np.isnan(difference_interval(float("nan"), 0.1, 5)))
    assert np.isnan(standard_error(np.full(3, 0.5), 1))
    assert np.isnan(standard_error(np.full(3, np.nan), 7))
    assert share_interval(0.4, float("nan"), 1, 1) == (0.0, 1.0)
    assert difference_interval(0.4, float("nan"), 1) == (-1.0, 1.0)


def test_shares_near_1_are_held():
    """17 units of 5 fields, 97 % of them right; a unit's fields err together."""
    generator, held = np.random.default_rng(4), 0
    for _ in range(300):
        right = generator.binomial(5, generator.beta(9.7, 0.3, 17)) / 5
        drawn = right[generator.integers(0, 17, (300, 17))].mean(axis=1)
        low, high = share_interval(right.mean(), standard_error(drawn, 17), 17, 17)
        held += low <= 0.97 <= high
    assert held >= 0.9 * 300
