"""Areas and accuracies from a stratified random sample, with standard errors.

One estimator for both cases: strata that are the map's classes (Olofsson et al. 2014) and strata that are not (Stehman
2014). Every figure is a mean or a ratio of two means over the region; for strata that are map classes the ratio's
variance is Olofsson's eqs. 6 and 7. Axes: h stratum, u sampled unit, k class.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluemap.errors import DataError

CONFIDENCE_95 = 1.96  # standard errors on either side of an estimate, as in both papers

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A figure and its standard error; NaN where nothing was sampled that tells it."""

    value: Floats
    standard_error: Floats

    @property
    def margin(self) -> Floats:
        """Half the width of the 95 % confidence interval."""
        return CONFIDENCE_95 * self.standard_error

    def scaled(self, factor: float) -> "Estimate":
        return Estimate(self.value * factor, self.standard_error * factor)


@dataclass(frozen=True)
class Estimates:
    """All that a reference sample tells of a map. Shares are of the region's area."""

    confusion: Floats  # k k, share of the area: rows map class, columns reference class; sums to 1
    area: Estimate  # k, share of the reference class
    users: Estimate  # k, share of the mapped class that is right
    producers: Estimate  # k, share of the reference class that is mapped as such
    overall: Estimate  # one number


def stratified_estimates(
    stratum: NDArray[np.intp],
    mapped: NDArray[np.intp],
    reference: NDArray[np.intp],
    sizes: Floats,
    classes: int,
    finite: bool = False,
    names: Sequence[str] | None = None,
) -> Estimates:
    """u, u, u whole numbers from 0 (of the unit: stratum, map class, reference class), h sizes -> estimates.

    `sizes` are the strata's areas in any unit. With `finite` they count the units that could have been drawn, and the
    variances get the finite population correction 1 - n/N. `names` of the strata are for the error's message.

    Raises:
        DataError: a stratum with less than two sampled units (one is enough where it is all there is).
    """
    sampled = np.bincount(stratum, minlength=len(sizes))
    _refuse_thin_strata(sampled, sizes, finite, names or [f"stratum {h}" for h in range(len(sizes))])
    design = _Design(stratum, sampled, sizes / sizes.sum(), 1 - sampled / sizes if finite else np.ones(len(sizes)))
    of_map = np.eye(classes)[mapped]  # u k
    of_reference = np.eye(classes)[reference]
    right = of_map * of_reference
    everything = np.ones((len(stratum), 1))
    overall = design.ratio(right.sum(axis=1, keepdims=True), everything)
    return Estimates(
        confusion=np.stack([design.mean(of_map[:, [k]] * of_reference) for k in range(classes)]),
        area=design.ratio(of_reference, np.broadcast_to(everything, of_reference.shape)),
        users=design.ratio(right, of_map),
        producers=design.ratio(right, of_reference),
        overall=Estimate(overall.value[0], overall.standard_error[0]),
    )


@dataclass(frozen=True)
class _Design:
    stratum: NDArray[np.intp]  # u
    sampled: NDArray[np.intp]  # h, n
    weights: Floats  # h, share of the region
    correction: Floats  # h, 1 - n/N or 1

    def mean(self, values: Floats) -> Floats:
        """u k -> k: the region's mean (Olofsson eq. 9, Stehman eq. 3)."""
        return np.asarray(self.weights @ self._means(values))

    def ratio(self, numerator: Floats, denominator: Floats) -> Estimate:
        """u k, u k -> k: the ratio of the two means (Stehman eq. 27), its standard error by the variance of the
        residual numerator - ratio * denominator within the strata (eq. 28)."""
        whole = self.mean(denominator)
        known = whole > 0
        value = np.where(known, self.mean(numerator) / np.where(known, whole, 1.0), np.nan)
        residual = numerator - np.where(known, value, 0.0) * denominator  # u k
        square = self._means((residual - self._means(residual)[self.stratum]) ** 2)  # h k
        n = np.maximum(self.sampled, 2)[:, None]  # a stratum of one unit has no spread: 0 / 1
        variance = (self.weights[:, None] ** 2 * self.correction[:, None] * square / (n - 1)).sum(axis=0)
        return Estimate(value, np.where(known, np.sqrt(variance) / np.where(known, whole, 1.0), np.nan))

    def _means(self, values: Floats) -> Floats:
        """u k -> h k: mean of every stratum's units."""
        sums = np.zeros((len(self.weights), values.shape[1]))
        np.add.at(sums, self.stratum, values)
        return np.asarray(sums / self.sampled[:, None])


def _refuse_thin_strata(sampled: NDArray[np.intp], sizes: Floats, finite: bool, names: Sequence[str]) -> None:
    for n, size, name in zip(sampled, sizes, names, strict=True):
        if n < 2 and not (finite and n == size == 1):
            raise DataError(
                f"{name} (size {size:g}) has {n} sampled unit(s), but a standard error needs two: label more of it, or "
                "merge it with another class"
            )
