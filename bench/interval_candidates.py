"""Which 95 % interval should cross-validated scores have? Candidates on the draws that crossvalidated_coverage.py kept.

Nothing is trained: each draw's counts are drawn again (bootstrap), or a unit at a time is left out (jackknife). Prints
by candidate the share of intervals that hold the truth, those that lie below it and above it, and their mean width.
Classes: user's and producer's accuracies of those with five labelled fields or more.
"""

import argparse
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(Path(__file__).resolve().parent)]

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from crossvalidated_coverage import IDS, Draw, by_fields, kept  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from scipy.special import expit, logit  # noqa: E402
from scipy.stats import norm  # noqa: E402

from cluemap.statistics.pooled_scores import (  # noqa: E402
    LEVELS,
    ROUNDING,
    Pooled,
    cases_of,
    confusions,
    draws,
    share_interval,
    standard_error,
    student,
)
from cluemap.training.metrics import Scores, scores  # noqa: E402

Floats = NDArray[np.float64]
Ends = tuple[Floats, Floats]
FEWEST = 5  # labelled fields of a class that is looked at
DRAWN = 1000


@dataclass(frozen=True, eq=False)
class Sample:
    """Scores of one draw. Axes: q score, b bootstrap sample, u unit."""

    value: Floats  # q
    drawn: Floats  # b q
    drawn_error: Floats  # b q: jackknife standard error of each bootstrap sample's scores
    left_out: Floats  # u q: without unit u
    holds: NDArray[np.intp]  # q: fields that the score is of
    iou: Floats  # s
    drawn_iou: Floats  # b s
    iou_holds: NDArray[np.intp]  # s

    @property
    def units(self) -> int:
        return len(self.left_out)

    @property
    def student(self) -> float:
        return student(self.units)

    @property
    def spread(self) -> Floats:
        """q: the bootstrap's standard error, made up for the units being few."""
        return np.array([standard_error(column, self.units) for column in self.drawn.T])

    @property
    def jackknife(self) -> Floats:
        return jackknife_error(self.left_out, np.ones(self.units))


def jackknife_error(left_out: Floats, times: Floats) -> Floats:
    """... u q, ... u -> ... q: CV3 of MacKinnon et al. 2023; unit u is there so often."""
    known = np.where(np.isnan(left_out), 0.0, times[..., None])
    count = known.sum(axis=-2)
    filled = np.nan_to_num(left_out)
    middle = (known * filled).sum(axis=-2) / count
    return np.sqrt((count - 1) / count * (known * (filled - middle[..., None, :]) ** 2).sum(axis=-2))


def percentile(one: Sample, low: Floats | float = 0.025, high: Floats | float = 0.975) -> Ends:
    """Of the draws, by columns; each column may have its own two shares."""
    width = one.drawn.shape[1]
    shares = np.broadcast_to(low, width), np.broadcast_to(high, width)
    return tuple(np.array([np.nanquantile(one.drawn[:, k], share[k]) for k in range(width)]) for share in shares)


def widened(one: Sample) -> Ends:
    low, high = percentile(one)
    wider = one.student / norm.ppf(0.975) * np.sqrt(one.units / (one.units - 1))
    return one.value - wider * (one.value - low), one.value + wider * (high - one.value)


def basic(one: Sample) -> Ends:
    low, high = percentile(one)
    return 2 * one.value - high, 2 * one.value - low


def corrected(one: Sample, accelerated: bool) -> Ends:
    """BC and BCa (Efron 1987), its shares moved out by Student's quantile."""
    below = (one.drawn < one.value).mean(axis=0) + (one.drawn == one.value).mean(axis=0) / 2
    bias = norm.ppf(np.clip(below, 1 / DRAWN, 1 - 1 / DRAWN))
    deviation = np.nanmean(one.left_out, axis=0) - one.left_out
    with np.errstate(invalid="ignore"):
        skew = np.nansum(deviation**3, axis=0) / (6 * np.nansum(deviation**2, axis=0) ** 1.5)
    skew = np.nan_to_num(skew) * accelerated
    shares = [norm.cdf(bias + (bias + z) / (1 - skew * (bias + z))) for z in norm.ppf([0.025, 0.975])]
    return percentile(one, *shares)


def around(one: Sample, error: Floats) -> Ends:
    return one.value - one.student * error, one.value + one.student * error


def around_logit(one: Sample, error: Floats) -> Ends:
    """As `around`, on the scale of log odds; a share of 0 or 1 stays as it is."""
    inner = (one.value > 0) & (one.value < 1)
    value = np.where(inner, one.value, 0.5)
    half = one.student * error / (value * (1 - value))
    ends = expit(logit(value) - half), expit(logit(value) + half)
    return tuple(np.where(inner, end, one.value) for end in ends)


def wilson(one: Sample, error: Floats) -> Ends:
    """Of as many cases as would have this error (Franco et al. 2019); without any, as many as there are fields."""
    cases = np.where(error > ROUNDING, one.value * (1 - one.value) / np.maximum(error, ROUNDING) ** 2, one.holds)
    square = one.student**2 / cases
    half = np.sqrt(square * (one.value * (1 - one.value) + square / 4)) / (1 + square)
    middle = (one.value + square / 2) / (1 + square)
    return middle - half, middle + half


def clopper_pearson(one: Sample, error: Floats) -> Ends:
    """What cluemap gives: as `wilson`, with the binomial's exact interval (Korn and Graubard 1998)."""
    given = zip(one.value, error, one.holds, strict=True)
    return tuple(np.array([share_interval(value, each, int(count), one.units) for value, each, count in given]).T)


def combined(one: Sample) -> Ends:
    """mIoU (score 1) from the intervals of its classes (MOVER, Zou and Donner 2008), which know that a class without a
    mistake is not sure either; correlated as in the bootstrap. Other scores: as they are."""
    ends = [end.copy() for end in clopper_pearson(one, one.spread)]
    there = ~np.isnan(one.iou)
    classes = replace(one, value=one.iou[there], drawn=one.drawn_iou[:, there], holds=one.iou_holds[there])
    alike = pd.DataFrame(classes.drawn).corr().fillna(0.0).to_numpy(copy=True)
    np.fill_diagonal(alike, 1.0)
    for end, of_class in zip(ends, clopper_pearson(classes, classes.spread), strict=True):
        margin = np.abs(of_class - classes.value)
        end[1] = np.sqrt(margin @ alike @ margin) / len(margin)
    ends[0][1], ends[1][1] = one.value[1] - ends[0][1], one.value[1] + ends[1][1]
    return tuple(ends)


def studentised(one: Sample) -> Ends:
    """Bootstrap-t: the quantiles of (drawn - value) / its own error take the place of Student's."""
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = (one.drawn - one.value) / one.drawn_error
    ratio[~np.isfinite(ratio)] = np.nan
    low, high = np.nanquantile(ratio, [0.025, 0.975], axis=0)
    return one.value - high * one.jackknife, one.value - low * one.jackknife


CANDIDATES: dict[str, Callable[[Sample], Ends]] = {
    "percentile": percentile,
    "percentile, widened": widened,
    "basic": basic,
    "BC": lambda one: corrected(one, False),
    "BCa": lambda one: corrected(one, True),
    "bootstrap-t": studentised,
    "bootstrap error, t": lambda one: around(one, one.spread),
    "bootstrap error, t, logit": lambda one: around_logit(one, one.spread),
    "jackknife error, t": lambda one: around(one, one.jackknife),
    "jackknife error, t, logit": lambda one: around_logit(one, one.jackknife),
    "bootstrap error, Wilson": lambda one: wilson(one, one.spread),
    "jackknife error, Wilson": lambda one: wilson(one, one.jackknife),
    "bootstrap error, Clopper-Pearson": lambda one: clopper_pearson(one, one.spread),
    "jackknife error, Clopper-Pearson": lambda one: clopper_pearson(one, one.jackknife),
    "Clopper-Pearson, mIoU by MOVER": combined,
}


def vector(found: Scores) -> Floats:
    """... -> ... q: overall accuracy, mIoU, then by class user's and producer's accuracy."""
    whole = np.stack([found.overall_accuracy, found.miou], axis=-1)
    return np.concatenate([whole, found.precision, found.recall], axis=-1)


def sample(blocks: Pooled, level: str, seed: int, nested: bool) -> Sample:
    """`nested`: the errors of the bootstrap samples too, which costs u times as much."""
    units = int(blocks.unit.max()) + 1
    weights = draws(units, DRAWN, seed)
    one = np.eye(units, dtype=np.int64)

    def of(times: NDArray[np.int64]) -> Floats:
        return vector(scores(confusions(blocks, level, times)))

    drawn = of(weights)
    errors = np.full_like(drawn, np.nan)
    for number, times in enumerate(weights if nested else []):
        there = times > 0
        errors[number] = jackknife_error(of(times - one[there]), times[there].astype(float))
    of_class = cases_of(blocks, level)
    whole = [of_class["recall"].sum()] * 2
    holds = np.concatenate([whole, of_class["precision"], of_class["recall"]])
    iou = [scores(confusions(blocks, level, times)).iou for times in (np.ones((1, units), np.int64), weights)]
    value = of(np.ones((1, units), np.int64))[0]
    return Sample(value, drawn, errors, of(1 - one), holds, iou[0][0], iou[1], of_class["iou"])


def truth(draw: Draw, level: str) -> Floats:
    """q: the mean over the models."""
    found = scores(draw.truth[:, LEVELS.index(level)])
    classes = np.unique(draw.blocks.true)
    miou = np.nanmean(found.iou[:, classes], axis=1)
    models = vector(found._replace(miou=miou))
    known = ~np.isnan(models)
    return np.where(known, models, 0).sum(axis=0) / np.where(known.any(axis=0), known.sum(axis=0), np.nan)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder of crossvalidated_coverage.py --out")
    parser.add_argument("--draws", type=int, default=50, help="regions")
    parser.add_argument("--first", type=int, default=0, help="the first one's seed")
    parser.add_argument("--nested", action="store_true", help="bootstrap-t too, over blocks: minutes")
    given = parser.parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)  # classes that are not there
    rows = []
    for seed in range(given.first, given.first + given.draws):
        draw = kept(given.out / f"draw_{seed:04}.npz")
        fields = np.bincount(draw.blocks.true, minlength=IDS.size)
        for unit, one in (("blocks", draw.blocks), ("fields", by_fields(draw.blocks))):
            for level in LEVELS:
                found = sample(one, level, seed, given.nested and unit == "blocks")
                rows += [(unit, level, *row) for row in compared(found, truth(draw, level), fields)]
    columns = ["drawn again", "level", "scores", "interval", "held", "too low", "too high", "width"]
    table = pd.DataFrame(rows, columns=columns)
    means = table.groupby(["drawn again", "interval", "level", "scores"], sort=False).mean()
    print(f"{given.draws} regions")
    print(means.unstack(["level", "scores"])["held"].to_string(float_format="{:.3f}".format))
    print(means.loc["blocks"].to_string(float_format="{:.3f}".format))


def compared(found: Sample, true: Floats, fields: NDArray[np.int64]) -> list[tuple]:
    """Scores, interval, held, too low, too high, width."""
    many = np.concatenate([[False, False], np.tile(fields >= FEWEST, 2)])
    of_class = many & ~np.isnan(found.value) & ~np.isnan(true)
    rows = []
    for name, interval in CANDIDATES.items():
        low, high = (np.clip(end, 0.0, 1.0) for end in interval(found))
        for scores_, chosen in (("accuracy", [0]), ("mIoU", [1]), ("classes", np.flatnonzero(of_class))):
            for k in chosen:
                held, width = low[k] <= true[k] <= high[k], high[k] - low[k]
                rows.append((scores_, name, held, high[k] < true[k], low[k] > true[k], width))
    return rows


if __name__ == "__main__":
    main()
