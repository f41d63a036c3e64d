"""How many units of a sample every stratum gets (Olofsson et al. 2014, section 5.1.2)."""

import numpy as np
from numpy.typing import NDArray

from cluemap.errors import DataError

FEWEST = 2  # units a stratum needs for a standard error
RARE = 50  # units that Olofsson et al. advise for the rarest class


def allocate(sizes: NDArray[np.int64], total: int, minimum: int | None = None) -> NDArray[np.int64]:
    """h units in each stratum -> h units to draw: by size, but `minimum` (or all there are) at least.

    Without a minimum it is 50, or half an equal share where that is less, so that large strata keep their weight.

    Raises:
        DataError: more units than there are, or a minimum that the total does not reach.
    """
    if total > sizes.sum():
        raise DataError(f"a sample of {total} is more than the {sizes.sum()} pixels of the map: draw fewer")
    if minimum is None:
        minimum = max(FEWEST, min(RARE, total // (2 * len(sizes))))
    least = np.minimum(minimum, sizes)
    if least.sum() > total or minimum < FEWEST:
        raise DataError(
            f"a sample of {total} with at least {minimum} of each of {len(sizes)} classes is impossible: give --size "
            f"{max(FEWEST, minimum) * len(sizes)} or more, or a --minimum from {FEWEST} to {total // len(sizes)}"
        )
    held = np.zeros(len(sizes), bool)  # strata that get their minimum
    while True:
        shares = (total - least[held].sum()) * sizes / max(1, sizes[~held].sum())
        below = ~held & (shares < least)
        if not below.any():
            return np.where(held, least, _rounded(np.where(held, 0.0, shares)))
        held |= below


def _rounded(shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """Whole numbers of the same sum: the largest remainders are rounded up."""
    whole = np.floor(shares + 1e-9).astype(np.int64)
    missing = round(shares.sum()) - whole.sum()
    whole[np.argsort(whole - shares, kind="stable")[:missing]] += 1
    return whole
