"""Areas and accuracies: the papers' worked examples to the printed digits, a slow oracle, laws."""

import numpy as np
import pytest

from cluemap.errors import DataError
from cluemap.statistics.stratified_estimates import CONFIDENCE_95, stratified_estimates

# ------------------------------------------------------------------ Olofsson et al. 2014, section 4 and tables 8 and 9

OLOFSSON_COUNTS = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])  # map, reference
OLOFSSON_SIZES = np.array([200_000.0, 150_000.0, 3_200_000.0, 6_450_000.0])


@pytest.fixture
def olofsson():
    mapped, reference = units_of(OLOFSSON_COUNTS)
    return stratified_estimates(mapped, mapped, reference, OLOFSSON_SIZES, 4)


def units_of(counts):
    """Counts by map and reference class -> one entry a sampled unit."""
    pairs = [(i, j) for i, row in enumerate(counts) for j, n in enumerate(row) for _ in range(n)]
    return tuple(np.array(pairs).T)


def test_olofsson_areas(olofsson):
    area = olofsson.area.scaled(OLOFSSON_SIZES.sum())
    assert round(area.value[0]) == 235_086
    assert round(area.margin[0]) == 68_418
    hectares, margins = area.scaled(0.09).value.round(), area.scaled(0.09).margin.round()  # pixels of 30 m
    assert hectares.tolist() == [21_158, 11_686, 285_770, 581_386]
    assert margins.tolist() == [6_158, 3_756, 15_510, 16_282]


def test_olofsson_accuracies(olofsson):
    assert olofsson.users.value.round(2).tolist() == [0.88, 0.73, 0.93, 0.96]
    assert olofsson.users.margin.round(2).tolist() == [0.07, 0.10, 0.04, 0.02]
    assert olofsson.producers.value.round(2).tolist() == [0.75, 0.85, 0.93, 0.96]
    assert olofsson.producers.margin.round(2).tolist() == [0.21, 0.25, 0.03, 0.02]  # from eq. 7, see the oracle below
    assert olofsson.overall.value.round(2) == 0.95
    assert olofsson.overall.margin.round(2) == 0.02


def test_olofsson_confusion(olofsson):
    expected = [
        [0.0176, 0, 0.0013, 0.0011],
        [0, 0.0110, 0.0016, 0.0024],
        [0.0019, 0, 0.2967, 0.0213],
        [0.0040, 0.0020, 0.0179, 0.6212],
    ]
    np.testing.assert_allclose(olofsson.confusion, expected, atol=5.1e-5)


# ------------------------------------------------------------------ Stehman 2014, table 2 and section 5

STEHMAN_REFERENCE = "AAAAACBABC ABBBBBAABB CCCCCDDBBA DDDDDDDCCB"
STEHMAN_MAPPED = "AAAAAAABBB ABBBBBBBBB BBCCCCCCBB DDDDDDDDDD"
STEHMAN_SIZES = np.array([40_000.0, 30_000.0, 20_000.0, 10_000.0])


@pytest.fixture
def stehman():
    mapped, reference = (
        np.array(["ABCD".index(letter) for letter in text.replace(" ", "")])
        for text in (STEHMAN_MAPPED, STEHMAN_REFERENCE)
    )
    return stratified_estimates(np.repeat(np.arange(4), 10), mapped, reference, STEHMAN_SIZES, 4, finite=True)


def test_stehman_areas(stehman):
    assert stehman.area.value.round(2).tolist() == [0.35, 0.34, 0.20, 0.11]
    assert stehman.area.standard_error[0].round(3) == 0.082
    assert stehman.area.standard_error[2].round(3) == 0.064


def test_stehman_accuracies(stehman):
    assert stehman.overall.value.round(2) == 0.63
    assert stehman.overall.standard_error.round(3) == 0.085
    assert stehman.users.value.round(3).tolist() == [0.742, 0.574, 0.5, 0.7]
    assert stehman.users.standard_error[:3].round(3).tolist() == [0.165, 0.125, 0.215]
    assert stehman.producers.value[:3].round(3).tolist() == [0.657, 0.794, 0.3]
    assert stehman.producers.standard_error[:3].round(3).tolist() == [0.148, 0.117, 0.150]


def test_stehman_confusion(stehman):
    expected = [[0.23, 0.04, 0.04, 0.0], [0.12, 0.27, 0.08, 0.0], [0.0, 0.02, 0.06, 0.04], [0.0, 0.01, 0.02, 0.07]]
    np.testing.assert_allclose(stehman.confusion, expected, atol=1e-12)


# ------------------------------------------------------------------ oracle and laws


def olofsson_by_hand(counts, sizes):
    """Eqs. 4 to 7, 10 and 11, written as printed, for strata that are the map's classes."""
    weights, n = sizes / sizes.sum(), counts.sum(axis=1)
    shares = [[weights[i] * counts[i][j] / n[i] for j in range(len(n))] for i in range(len(n))]
    found = {"area": [], "area_se": [], "users_se": [], "producers_se": []}
    for k in range(len(n)):
        user = counts[k][k] / n[k]
        column = [shares[i][k] for i in range(len(n))]
        producer = shares[k][k] / sum(column)
        found["area"].append(sum(column))
        found["area_se"].append(
            sum((weights[i] * shares[i][k] - shares[i][k] ** 2) / (n[i] - 1) for i in range(len(n))) ** 0.5
        )
        found["users_se"].append((user * (1 - user) / (n[k] - 1)) ** 0.5)
        pixels = sum(sizes[i] / n[i] * counts[i][k] for i in range(len(n)))
        own = sizes[k] ** 2 * (1 - producer) ** 2 * user * (1 - user) / (n[k] - 1)
        others = sum(
            sizes[i] ** 2 * counts[i][k] / n[i] * (1 - counts[i][k] / n[i]) / (n[i] - 1)
            for i in range(len(n))
            if i != k
        )
        found["producers_se"].append(((own + producer**2 * others) / pixels**2) ** 0.5)
    users = [counts[k][k] / n[k] for k in range(len(n))]
    found["overall_se"] = sum(weights[k] ** 2 * users[k] * (1 - users[k]) / (n[k] - 1) for k in range(len(n))) ** 0.5
    return found


@pytest.mark.parametrize("seed", range(5))
def test_against_the_printed_formulae(seed):
    generator = np.random.default_rng(seed)
    counts = generator.integers(1, 40, (3, 3)) + 30 * np.eye(3, dtype=int)
    sizes = generator.uniform(1e3, 1e6, 3)
    mapped, reference = units_of(counts)
    found, expected = stratified_estimates(mapped, mapped, reference, sizes, 3), olofsson_by_hand(counts, sizes)
    np.testing.assert_allclose(found.area.value, expected["area"])
    np.testing.assert_allclose(found.area.standard_error, expected["area_se"])
    np.testing.assert_allclose(found.users.standard_error, expected["users_se"])
    np.testing.assert_allclose(found.producers.standard_error, expected["producers_se"])
    assert found.overall.standard_error == pytest.approx(expected["overall_se"])


def test_areas_and_confusion_sum_to_the_region(olofsson, stehman):
    for found in (olofsson, stehman):
        assert found.confusion.sum() == pytest.approx(1)
        np.testing.assert_allclose(found.confusion.sum(axis=0), found.area.value)
        assert np.trace(found.confusion) == pytest.approx(found.overall.value)


def test_a_census_has_no_error():
    reference = np.array([0, 0, 1, 1, 1, 0])
    stratum = np.array([0, 0, 0, 1, 1, 2])
    found = stratified_estimates(stratum, stratum % 2, reference, np.array([3.0, 2.0, 1.0]), 2, finite=True)
    np.testing.assert_allclose(found.area.value, [0.5, 0.5])
    np.testing.assert_allclose(found.area.standard_error, 0)


def test_a_class_nobody_saw_is_unknown_and_not_zero_percent_right():
    two = np.array([0, 0, 1, 1])
    found = stratified_estimates(two, two, two, np.array([5.0, 5.0]), 3)
    assert np.isnan(found.users.value[2])
    assert np.isnan(found.producers.standard_error[2])
    assert found.area.value[2] == 0


def test_a_stratum_of_one_unit_is_refused():
    lone = np.array([0, 0, 1])
    with pytest.raises(DataError, match=r"wheat .* has 1 sampled unit"):
        stratified_estimates(lone, lone, lone, np.array([5.0, 5.0]), 2, finite=True, names=["rye", "wheat"])
    two = np.array([0, 0, 1, 1])
    with pytest.raises(DataError, match=r"stratum 2 .* has 0 sampled unit"):
        stratified_estimates(two, two, two, np.array([5.0, 5.0, 1.0]), 2)


def test_the_margin_is_of_95_percent(olofsson):
    np.testing.assert_allclose(olofsson.users.margin, CONFIDENCE_95 * olofsson.users.standard_error)
