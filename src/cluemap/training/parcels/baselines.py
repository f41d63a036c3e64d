"""What a user would try first on parcels: a random forest and boosted trees on each parcel's median series."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluemap.data.parcels.parcels import Parcels
from cluemap.data.patches import NODATA
from cluemap.data.series_features import EVERY, YEAR, median_span, shares, years_apart
from cluemap.params import BaselineParams


def median_series(pixels: NDArray[np.int16], days: NDArray, even: NDArray) -> NDArray[np.float32]:
    """s t c, days t -> g c: the median of the pixels seen on each date, interpolated linearly at the days `even`."""
    known = (pixels != NODATA).all(axis=2)
    dates = np.flatnonzero(known.any(axis=0))
    medians = np.stack([np.median(pixels[known[:, date], date], axis=0) for date in dates])
    moved = days + YEAR * years_apart(days, even)
    return shares(moved[dates], even) @ medians.astype(np.float32)


def features(parcels: Parcels, indexes: NDArray[np.int64], train: NDArray[np.int64]) -> NDArray[np.float32]:
    """n f: the median series at every 15th day of the training parcels' season, and the geometric features."""
    first, last = median_span(parcels.spans(train))
    even = np.arange(first, last + EVERY, EVERY).astype(np.int64)
    rows = [median_series(*parcels.series(int(index)), even).ravel() for index in indexes]
    return np.concatenate([np.stack(rows), parcels.geometry[indexes]], axis=1)


def models(params: BaselineParams, seed: int) -> dict[str, Any]:
    """Name -> a classifier of scikit-learn; without a forest where `baselines.forest` is 0."""
    # Half a second: only where it is asked for.
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

    found: dict[str, Any] = {
        "trees": HistGradientBoostingClassifier(
            max_iter=params.rounds, max_leaf_nodes=params.leaves, learning_rate=0.1, l2_regularization=1.0,
            min_samples_leaf=10, max_bins=63, early_stopping=False, random_state=seed,
        )
    }  # fmt: skip
    if params.forest:
        found["forest"] = RandomForestClassifier(params.forest, n_jobs=-1, random_state=seed)
    return found


def probabilities(
    model: Any, x: NDArray[np.float32], target: NDArray[np.int64], asked: NDArray[np.float32], classes: int
) -> NDArray[np.float32]:
    """Fit on x n f and its classes, ask about m f -> m k; a class without an example gets 0."""
    found = np.zeros((len(asked), classes), np.float32)
    present = np.unique(target)
    if len(present) == 1:
        found[:, present] = 1.0
        return found
    model.fit(x, target)
    found[:, model.classes_] = model.predict_proba(asked)
    return found
