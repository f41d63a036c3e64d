"""Labels of parcels from the classes that image labels leave, in rounds (METHOD section 13, a parcel at a time).

Where a single class is left, that is the label. A forest that is fitted on the labels so far is asked about all parcels
under the classes that are left; of a parcel that it was fitted on only those of its trees are asked that have not seen
it. What it is sure of are the labels of the next round. No truth is read.
"""

import numpy as np
from numpy.typing import NDArray

ROUNDS = 3
TREES = 200
NONE = -1  # no label


def single(may: NDArray[np.bool_]) -> NDArray[np.int64]:
    """n k -> n: the class where only one is left, else NONE."""
    return np.where(may.sum(axis=1) == 1, may.argmax(axis=1), NONE)


def settled(
    x: NDArray[np.float32], may: NDArray[np.bool_], least: float, seed: int, rounds: int = ROUNDS
) -> NDArray[np.int64]:
    """Features n f, classes that are left n k -> n: the class of each, NONE where no class has the probability `least`.
    Without two classes to learn from, only what a single class is left for.
    """
    sure = single(may)
    labels = sure
    for number in range(rounds):
        known = np.flatnonzero(labels != NONE)
        if len(np.unique(labels[known])) < 2:
            return labels
        shares = asked(x, labels, known, may.shape[1], seed + number) * may
        shares /= np.maximum(shares.sum(axis=1, keepdims=True), 1e-9)
        told = np.where(shares.max(axis=1) >= max(least, 1e-6), shares.argmax(axis=1), NONE)
        labels = np.where(sure != NONE, sure, told)
    return labels


def asked(
    x: NDArray[np.float32], labels: NDArray[np.int64], known: NDArray[np.int64], classes: int, seed: int
) -> NDArray[np.float64]:
    """n k: the forest's probabilities, of the parcels `known` by the trees that were not fitted on them."""
    from sklearn.ensemble import RandomForestClassifier  # half a second: only where it is asked for

    forest = RandomForestClassifier(TREES, n_jobs=-1, random_state=seed, oob_score=True)
    forest.fit(x[known], labels[known])
    found = np.zeros((len(x), classes))
    found[:, forest.classes_] = forest.predict_proba(x)
    found[np.ix_(known, forest.classes_)] = np.nan_to_num(forest.oob_decision_function_)
    return found
