"""Scores of predictions pooled over folds, with intervals from drawing whole fields (or blocks of land) again.

Pixels of a field are not independent: an interval over pixels would be several times too narrow. Axes: r a field's
pixels of one true class, u unit that is drawn as a whole, b draw, s class. Which interval suits was chosen on simulated
regions (bench/interval_candidates.py, docs/small_regions.md).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import beta, norm, t

from cluemap.errors import DataError
from cluemap.training.metrics import VOID, Ids, scores

LEVELS = ("pixels", "fields")
WHOLE = {"overall_accuracy": "overall accuracy", "balanced_accuracy": "balanced accuracy", "miou": "mIoU"}
OF_CLASS = {"precision": "user's accuracy", "recall": "producer's accuracy", "f1": "F1", "iou": "IoU"}
TAIL = 0.025  # outside a 95 % interval, on either side
ROUNDING = 1e-9  # a standard error below is none
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Pooled:
    """One model's predictions, counted. Several models over the same pixels share `unit`, `true` and `is_field`."""

    unit: NDArray[np.intp]  # r, 0..u-1: what is drawn again
    true: NDArray[np.intp]  # r, row of the confusion
    is_field: NDArray[np.bool_]  # r; false: land that belongs to no field
    counts: NDArray[np.int64]  # r s+1: pixels by predicted class, the last column without prediction

    def at(self, level: str) -> NDArray[np.int64]:
        """r s+1: pixels, or at level `fields` one for the class that most of a field's pixels are given."""
        if level == "pixels":
            return self.counts
        winner = np.eye(self.counts.shape[1], dtype=np.int64)[self.counts.argmax(axis=1)]
        return winner * self.is_field[:, None]


def pooled(
    truth: NDArray[np.uint8], prediction: NDArray[np.uint8], field: NDArray[np.int64], unit: NDArray[np.int64], ids: Ids
) -> Pooled:
    """p, p, p, p of pixels -> counts. field: a number, under 0 = no field. unit: any numbers.

    Raises:
        DataError: no pixel is labelled.
    """
    known = truth != VOID
    if not known.any():
        raise DataError("no test pixel has a label, so there is nothing to score: label some, or give `truth`")
    truth, prediction, field, unit = truth[known], prediction[known], field[known], unit[known]
    drawn = np.unique(unit, return_inverse=True)[1].reshape(-1)
    land = np.where(field < 0, -1 - drawn, field)  # without a field: the unit's land is one
    keys = np.stack([land, truth.astype(np.int64) - ids.first, drawn], axis=1)
    rows, row = np.unique(keys, axis=0, return_inverse=True)
    column = np.where(prediction == VOID, ids.size, prediction.astype(np.int64) - ids.first)
    flat = np.bincount(row.reshape(-1) * (ids.size + 1) + column, minlength=len(rows) * (ids.size + 1))
    return Pooled(
        rows[:, 2].astype(np.intp), rows[:, 1].astype(np.intp), rows[:, 0] >= 0, flat.reshape(len(rows), ids.size + 1)
    )


def draws(units: int, count: int, seed: int = 0) -> NDArray[np.int64]:
    """b u: how often each unit is in each bootstrap sample."""
    return np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), size=count)


def confusions(found: Pooled, level: str, weights: NDArray[np.int64]) -> NDArray[np.int64]:
    """Weights b u -> b s s+1."""
    counts, size = found.at(level), found.counts.shape[1] - 1
    out = np.zeros((len(weights), size, size + 1), np.int64)
    for k in np.unique(found.true):
        rows = found.true == k
        out[:, k] = weights[:, found.unit[rows]] @ counts[rows]
    return out


def confusion_of(found: Pooled, level: str) -> NDArray[np.int64]:
    """s s+1: the confusion of all."""
    return confusions(found, level, np.ones((1, int(found.unit.max()) + 1), np.int64))[0]


def cases_of(found: Pooled, level: str) -> dict[str, NDArray[np.intp]]:
    """By the OF_CLASS measures, s: how many fields (and blocks' land without fields) a class's share is of."""
    predicted = found.at(level)[:, :-1] > 0
    true = np.eye(predicted.shape[1], dtype=bool)[found.true] & (found.at(level).sum(axis=1) > 0)[:, None]
    either = (true | predicted).sum(axis=0)
    return {"precision": predicted.sum(axis=0), "recall": true.sum(axis=0), "f1": either, "iou": either}


def score_table(found: Pooled, names: list[str], weights: NDArray[np.int64]) -> pd.DataFrame:
    """A row a level, measure and class: value, and the interval from the draws b u. Class "" = of the whole."""
    rows, units = [], weights.shape[1]
    for level in LEVELS:
        exact, drawn = scores(confusion_of(found, level)), scores(confusions(found, level, weights))
        cases = cases_of(found, level)
        for key, measure in WHOLE.items():
            value, error = float(getattr(exact, key)), standard_error(getattr(drawn, key), units)
            rows.append((level, measure, "", value, *share_interval(value, error, int(cases["recall"].sum()), units)))
        for key, measure in OF_CLASS.items():
            for k, name in enumerate(names):
                value, error = float(getattr(exact, key)[k]), standard_error(getattr(drawn, key)[:, k], units)
                rows.append((level, measure, name, value, *share_interval(value, error, int(cases[key][k]), units)))
    return pd.DataFrame(rows, columns=["level", "measure", "class", "value", "low", "high"])


def lead(one: Pooled, other: Pooled, level: str, key: str, weights: NDArray[np.int64]) -> tuple[float, float, float]:
    """By how much a score of `one` is above `other`'s, and the interval; both over the same units, drawn together."""
    value = getattr(scores(confusion_of(one, level)), key) - getattr(scores(confusion_of(other, level)), key)
    drawn = [getattr(scores(confusions(model, level, weights)), key) for model in (one, other)]
    units = weights.shape[1]
    error = standard_error(drawn[0] - drawn[1], units)
    return float(value), *difference_interval(float(value), error, units)


def standard_error(drawn: Floats, units: int) -> float:
    """b, scores of the bootstrap samples (NaN: the sample has none) -> standard error, made up for the units being few.

    A bootstrap of u units has the variance of u, not of u - 1. NaN for one unit, which tells nothing of the spread.
    """
    known = drawn[~np.isnan(drawn)]
    if not len(known) or units < 2:
        return float("nan")
    return float(known.std() * np.sqrt(units / (units - 1)))


def share_interval(value: float, error: float, cases: int, units: int) -> tuple[float, float]:
    """Of a share (accuracy, IoU, or a mean of such): Clopper and Pearson's interval of as many independent cases as
    would have this error, fewer as Student's distribution asks.

    Without any error (all right, or all wrong) there are as many as `cases`, the fields that the share is of: 7 fields
    without a mistake do not prove that there is none. NaN where there is no value; 0 to 1 for one unit.
    Source: Korn and Graubard 1998, Survey Methodology 24 (2); Parker et al. 2017, Vital Health Stat. 2 (175).
    """
    if np.isnan(value):
        return float("nan"), float("nan")
    if units < 2 or np.isnan(error):
        return 0.0, 1.0
    alike = value * (1 - value) / error**2 if error > ROUNDING else cases  # the effective sample size
    alike *= (norm.ppf(1 - TAIL) / student(units)) ** 2
    right = value * alike
    low = beta.ppf(TAIL, right, alike - right + 1) if value > 0 else 0.0
    high = beta.ppf(1 - TAIL, right + 1, alike - right) if value < 1 else 1.0
    return float(low), float(high)


def difference_interval(value: float, error: float, units: int) -> tuple[float, float]:
    """Of the difference of two shares: Student's about the value, cut off at -1 and 1; these for one unit."""
    if np.isnan(value):
        return float("nan"), float("nan")
    if units < 2 or np.isnan(error):
        return -1.0, 1.0
    half = student(units) * error
    return max(value - half, -1.0), min(value + half, 1.0)


def student(units: int) -> float:
    """Standard errors on either side, for a mean of so many numbers."""
    return float(t.ppf(1 - TAIL, units - 1))
