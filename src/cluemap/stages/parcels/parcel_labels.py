"""Which labels a parcel network learns from: the true ones, or those that image labels vote for. Opens no mask."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cluemap.data.parcels.parcels import Parcels
from cluemap.data.patches import VOID
from cluemap.stages.make_masks import read_cams, read_masks
from cluemap.stages.stage import Stage
from cluemap.tracking.provenance import path_hash
from cluemap.training.parcels.baselines import features
from cluemap.training.parcels.rounds import NONE, settled
from cluemap.training.parcels.voting import candidates, check_same_split, vote

UPSTREAM = {
    "parcels": (),
    "image_labels": ("prepare",),
    "instances": ("prepare",),
    "masks": ("prepare", "refine_masks"),
    "cams": ("prepare", "make_cams"),
}


class Labels(NamedTuple):
    """One id a parcel (N), VOID where nothing is known, and what they depend on beside the parcels."""

    crop: NDArray[np.uint8]
    identity: dict[str, Any]


def training_labels(stage: Stage, parcels: Parcels, splits: NDArray[np.object_]) -> Labels:
    """The labels of the training parcels by `parcels.labels`; those of other splits are VOID. With `instances` they are
    those of `image_labels`, for the baselines: the network has none.

    Raises:
        DataError: masks, CAMs or windows that are missing, or of another split than the parcels.
    """
    params, train = stage.params.parcels, np.flatnonzero(splits == "train")
    crop = np.full(len(parcels), VOID, np.uint8)
    if params.labels == "parcels":
        crop[train] = parcels.truth()[train]
        return Labels(crop, {})
    train = train[~parcels.table["cut"].to_numpy()[train]]  # many are void, and void is in no image label
    windows = stage.windows()
    check_same_split(parcels, splits, windows)
    about = {"windows": windows.card.digest}
    if params.labels in ("image_labels", "instances"):
        may = candidates(parcels, train, windows, stage.params.windows.presence)
        asked = np.flatnonzero(may.any(axis=1) & ~may.all(axis=1))
        if len(asked):
            x = features(parcels, asked, asked)
            found = settled(x, may[asked], params.least_votes, stage.params.seed)
            crop[asked] = np.where(found == NONE, VOID, found + parcels.card.first)
        return Labels(crop, about)
    maps: NDArray
    if params.labels == "masks":
        maps, about["masks"] = read_masks(stage.folder_of("refine_masks") / "masks", windows)
        below = None
    else:
        source = stage.params.cams.source
        maps = read_cams(stage.folder_of("make_cams") / "cams", source, "train", windows)
        about["cams"] = path_hash(stage.folder_of("make_cams") / "cams") or ""
        threshold = stage.params.masks.threshold
        below = threshold if isinstance(threshold, float) else 0.0
    votes = vote(parcels, train, windows, maps, stage.params.windows.presence, params.least_votes, below)
    crop[train] = votes.crop[train]
    return Labels(crop, about)


def score_labels(parcels: Parcels, labels: NDArray[np.uint8], splits: NDArray[np.object_]) -> dict[str, float]:
    """How many training parcels have a label, and how many of those with a true class have it right; a report only."""
    train = splits == "train"
    truth, told = parcels.truth(), labels != VOID
    both = train & told & (truth != VOID)
    right, area = both & (labels == truth), parcels.table["area"].to_numpy()
    known = train & (truth != VOID)
    return {
        "labelled": int((train & told).sum()),
        "labelled_share": float(both.sum() / max(known.sum(), 1)),
        "accuracy": float(right.sum() / max(both.sum(), 1)),
        "accuracy_by_area": float(area[right].sum() / max(area[both].sum(), 1e-9)),
    }
