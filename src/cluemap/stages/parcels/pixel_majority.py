"""What the pixel route says of parcels: the class of most of a parcel's pixels in the maps of the test windows."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluemap.data.parcels.parcels import Parcels
from cluemap.data.patches import VOID
from cluemap.data.windows import Windows
from cluemap.stages.evaluate import SEGMENTERS, maps_of, segmenter_of
from cluemap.stages.stage import Stage
from cluemap.training.parcels.parcel_scores import parcel_scores
from cluemap.training.parcels.voting import parts_of, windows_by_patch


def majority(parcels: Parcels, indexes: NDArray[np.int64], windows: Windows, maps: NDArray[np.uint8]) -> NDArray:
    """n k: the share of each class among the pixels of a parcel that lie in test windows (`maps` n h w, ids); without
    any all zero. Where background is no class of parcels its pixels do not count.
    """
    first, classes = parcels.card.first, len(parcels.card.names)
    places, patches = windows_by_patch(windows, "test"), parcels.table["patch"].to_numpy()
    found = np.zeros((len(indexes), classes), np.float64)
    for row, index in zip(found, indexes.tolist(), strict=True):
        for window, local in parts_of(parcels.positions(index), places.get(patches[index], []), windows.card.size):
            said = maps[windows.mask_row[window]][tuple(local.T)]
            row += np.bincount(said[(said != VOID) & (said >= first)] - first, minlength=classes)
    return found / np.maximum(found.sum(axis=1, keepdims=True), 1)


def score_majority(stage: Stage, parcels: Parcels, splits: NDArray[np.object_]) -> dict[str, Any]:
    """Kind of the segmenter ("weak", "full") -> its scores on the test parcels that lie in test windows."""
    windows, truth = stage.windows(), parcels.truth()
    test = np.flatnonzero((splits == "test") & (truth != VOID))
    found = {}
    for kind in SEGMENTERS:
        maps = maps_of(segmenter_of(stage, kind, windows), windows, windows.indexes("test"), stage.params, stage.ranks)
        shares = majority(parcels, test, windows, maps)
        inside = shares.sum(axis=1) > 0
        target = truth[test].astype(np.int64) - parcels.card.first
        area = parcels.table["area"].to_numpy()[test]
        found[kind] = parcel_scores(shares[inside], target[inside], area[inside], parcels.card.names)
    return found
