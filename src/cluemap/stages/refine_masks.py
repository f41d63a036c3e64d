"""The work of stage refine_masks: pseudo masks corrected in rounds by a learner that is asked under the image label.

A round fits a learner on the masks of the round before and asks it again about the same windows, where only classes of
the image label may win (METHOD section 13). With `refine.folds` of 2 or more no window is asked of a learner that was
fitted on its own masks. No truth is opened here: `score_refined`, which comes after, only reports. Several ranks share
the windows; the masks have the same bits for any number of them.

Between rounds the id 0 is a class in every data set: where there is no background it is the rest, land that no CAM
claimed, allowed in every window; it becomes 255 when the masks are published. Without it the rounds would have to give
every road and wood to a crop of the image label.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cluemap.data.parcels.parcels import Parcels
from cluemap.data.parcels.window_maps import parcel_maps
from cluemap.data.series_features import SeriesFeatures
from cluemap.data.windows import Windows
from cluemap.model.method.pseudo_masks import IGNORED
from cluemap.model.method.refinement import agreement, allowed, constrained, decided, packed, within_parcels
from cluemap.params import RefineParams
from cluemap.runtime.distributed import ALONE, Ranks
from cluemap.stages.finished_rounds import FinishedRounds, Masks
from cluemap.stages.make_cams import SPLITS
from cluemap.stages.make_masks import open_masks, read_masks, write_masks
from cluemap.stages.stage import Stage, Under, identity_of
from cluemap.tracking import NoRun
from cluemap.training.learners.label_search import searched
from cluemap.training.learners.network_learner import NetworkFit, NetworkLearner
from cluemap.training.learners.pixel_learners import CHUNK, LinearLearner, PixelLearner, trees
from cluemap.training.map_scores import map_counts, named_map_scores
from cluemap.training.metrics import Ids, class_names
from cluemap.training.task import Log

Learner = PixelLearner | NetworkLearner
Keep = Callable[[NDArray[np.int64], NDArray[np.uint8]], None]  # rows of the split, their probabilities n h w s
Borders = dict[str, NDArray[np.int32]]  # split -> n h w, number of the parcel of each pixel, 0 = none
TREES = {"rounds": 40, "leaves": 15}  # of a round's learner: few, so that it cannot learn single pixels by heart
SETTLED = 0.005  # share of pixels that a round changed, from which on another one changes nothing that matters


def refine_masks(stage: Stage, windows: Windows, log: Log | None = None) -> dict[str, Any]:
    """Write `<folder>/masks/` as make_masks does, and give the stage's metrics: the course of the rounds. `log` takes
    the curves of networks that are fitted.
    """
    params, source = stage.params.refine, stage.folder_of("make_masks") / "masks"
    first, digest = read_masks(source, windows)
    masks: Masks = {"train": np.asarray(first), "validation": np.asarray(open_masks(source, "validation", windows))}
    course: list[dict[str, float]] = []
    probabilities = None
    starts: dict[str, list[float]] = {}
    if params.learner != "none":
        background = windows.card.legend.background
        masks = {split: found if background else with_rest(found) for split, found in masks.items()}
        if params.start == "image_labels":
            masks, starts = from_image_labels(stage, windows)
        masks, course, probabilities = _rounds(stage, windows, masks, digest, log or NoRun())
        masks = {split: found if background else without_rest(found) for split, found in masks.items()}
    if stage.ranks.first:
        write_masks(stage.folder / "masks", masks, windows, {"rounds": len(course), "source": digest}, probabilities)
        shutil.rmtree(stage.state, ignore_errors=True)
    return {"rounds": len(course), "course": course, **starts}


def _rounds(
    stage: Stage, windows: Windows, masks: Masks, digest: str, log: Log
) -> tuple[Masks, list[dict[str, float]], NDArray[np.uint8] | None]:
    """All rounds, from the last one that an interrupted try finished; the masks of the round where they stop, and on
    the first rank their probabilities where they are kept.
    """
    params, ranks = stage.params.refine, stage.ranks
    identity = {**identity_of(stage.params, ("refine", "ltae")), "masks": digest}
    borders: Borders | None = None
    if params.parcels:
        parcels = Parcels.open(stage.folder_of("prepare_parcels") / "parcels")
        borders = {split: parcel_maps(parcels, windows, windows.indexes(split)) for split in SPLITS}
        identity["parcels"] = parcels.card.digest
    disk = FinishedRounds(stage.state, identity)
    done = ranks.agree(disk.read() if ranks.first else None)
    course: list[dict[str, float]] = [about for _, about in done]
    history, features = [masks, *(found for found, _ in done)], SeriesFeatures(windows)
    numbers = range(len(done), params.rounds)
    for number in tqdm(numbers, initial=len(done), total=params.rounds, unit="round", disable=not ranks.first):
        if stops(course):
            break
        network = None
        if params.learner == "network":
            before = disk.probabilities(number - 1) if number and ranks.first else None
            known = {**identity, "round": number}
            network = NetworkFit(stage.params, disk.network(number), known, Under(f"round_{number + 1}", log), before)
        keep = None
        if params.keep_probabilities or network:
            keep = _into(disk, number, windows) if ranks.first else lambda rows, shares: None
        found = one_round(features, history[-1], params, stage.params.seed + number, ranks, borders, network, keep)
        about = course_of(found["train"], history[-1]["train"])
        if ranks.first:
            disk.keep(number, found, about)
        history.append(found)
        course.append(about)
    best = best_round(course)
    return history[best], course, disk.probabilities(best - 1) if params.keep_probabilities and ranks.first else None


def _into(disk: FinishedRounds, number: int, windows: Windows) -> Keep:
    """What writes a round's probabilities into its file."""
    size = windows.card.size
    file = disk.new_probabilities(
        number, (len(windows.indexes("train")), size, size, len(windows.card.legend.classes) + 1)
    )
    return file.__setitem__


def from_image_labels(stage: Stage, windows: Windows) -> tuple[Masks, dict[str, list[float]]]:
    """A start that owes nothing to any CAM: masks of the training windows that a search among random starts found, none
    of the validation windows; and for the metrics what each start foretold of image labels.
    """
    ranks, params = stage.ranks, stage.params
    found = searched(windows, params.refine.starts, params.seed, show=True) if ranks.first else None
    masks, foretold = ranks.agree(found)
    size = windows.card.size
    none = np.full((len(windows.indexes("validation")), size, size), IGNORED, np.uint8)
    return {"train": masks, "validation": none}, {"foretold": foretold}


def with_rest(masks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """n h w: what no crop was given to is the rest, id 0."""
    return np.where(masks == IGNORED, 0, masks).astype(np.uint8)


def without_rest(masks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """n h w: the rest is left out of training."""
    return np.where(masks == 0, IGNORED, masks).astype(np.uint8)


def one_round(
    features: SeriesFeatures, masks: Masks, params: RefineParams, seed: int, ranks: Ranks = ALONE,
    borders: Borders | None = None, network: NetworkFit | None = None, keep: Keep | None = None,
) -> Masks:  # fmt: skip
    """The masks of both splits as learners fitted on the training windows' masks have them under the image labels, and
    inside each parcel alike where `borders` are known. `network`: what that learner is told; `keep` is given the
    probabilities of the training windows.
    """
    windows = features.windows
    indexes = windows.indexes("train")
    fold = folds_of(windows, indexes, params.folds)
    learners: list[Learner] = []
    for one in range(params.folds):
        taught = fold != one if params.folds > 1 else np.ones(len(fold), bool)
        told = network and network.part(one)
        learners.append(_learner(features, indexes[taught], masks["train"][taught], params, seed, ranks, told))
    found = np.empty_like(masks["train"])
    for one, learner in enumerate(learners):
        rows = np.flatnonzero(fold == one)
        inside = None if borders is None else borders["train"][rows]
        found[rows] = asked([learner], windows, indexes[rows], params, inside, keep and _of_rows(keep, rows))
    inside = None if borders is None else borders["validation"]
    return {"train": found, "validation": asked(learners, windows, windows.indexes("validation"), params, inside)}


def _of_rows(keep: Keep, rows: NDArray[np.int64]) -> Keep:
    return lambda chosen, probabilities: keep(rows[chosen], probabilities)


def folds_of(windows: Windows, indexes: NDArray[np.int64], folds: int) -> NDArray[np.int64]:
    """n: which part each window is in; windows of one patch are in the same part, patches take turns."""
    _, patch = np.unique(windows.table["patch"].to_numpy()[indexes], return_inverse=True)
    return patch % folds


def asked(
    learners: list[Learner], windows: Windows, indexes: NDArray[np.int64], params: RefineParams,
    borders: NDArray[np.int32] | None = None, keep: Keep | None = None,
) -> NDArray[np.uint8]:  # fmt: skip
    """n h w: what the learners' mean says of these windows under their image labels; of what a label does not say
    whether it is there, anything may be there. With `borders` (n h w) a parcel is decided as a whole. `keep` is given
    the probabilities chunk by chunk, on the first rank."""
    may, ranks = allowed(windows.possible[indexes]), learners[0].ranks

    def chunk(start: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        here = slice(start, start + CHUNK)
        first, *others = (learner.of(indexes[here]) for learner in learners)
        mean = sum(others, start=first) / np.float32(len(learners))
        held = constrained(mean, may[here])
        if borders is not None:
            held = within_parcels(held, borders[here])
        return decided(held, params.confidence), packed(held) if keep else None

    parts: list[NDArray[np.uint8]] = []
    for mask, probabilities in ranks.shared_out(range(0, len(indexes), CHUNK), chunk):
        if keep and probabilities is not None:
            keep(np.arange(len(parts) * CHUNK, len(parts) * CHUNK + len(mask)), probabilities)
        parts.append(mask)
    size = windows.card.size
    return ranks.agree(np.concatenate(parts) if parts else np.zeros((0, size, size), np.uint8))


def course_of(found: NDArray[np.uint8], before: NDArray[np.uint8]) -> dict[str, float]:
    """What a round did to the masks of the training windows, seen without any truth."""
    return {
        "kept": float((found != IGNORED).mean()),
        "changed": float((found != before).mean()),
        "agreement": agreement(found, before),
    }


def drifts(course: list[dict[str, float]]) -> bool:
    """Whether the last round changed more pixels than the one before it did: the rounds move away again."""
    return len(course) > 1 and course[-1]["changed"] > course[-2]["changed"]


def stops(course: list[dict[str, float]]) -> bool:
    """Whether no further round is made: they drift, or have settled."""
    return bool(course) and (drifts(course) or course[-1]["changed"] <= SETTLED)


def best_round(course: list[dict[str, float]]) -> int:
    """Which masks are published: those of the last round, or of the one before it where the rounds drift."""
    return len(course) - 1 if drifts(course) else len(course)


def score_refined(windows: Windows, folder: Path) -> dict[str, Any]:
    """Scores of the published masks against the truth of both splits, and the share that they decide; a report only."""
    legend = windows.card.legend
    ids, names = Ids(len(legend.classes), legend.background), class_names(legend)
    found = {}
    for split in SPLITS:
        masks = open_masks(folder, split, windows)
        scores = named_map_scores(map_counts(windows.masks(split), np.asarray(masks), ids), names)
        found[split] = {**scores, "decided": float((np.asarray(masks) != IGNORED).mean())}
    return found


def _learner(
    features: SeriesFeatures,
    indexes: NDArray[np.int64],
    masks: NDArray[np.uint8],
    params: RefineParams,
    seed: int,
    ranks: Ranks = ALONE,
    network: NetworkFit | None = None,
) -> Learner:
    """A round's learner. The linear one and the network take all classes as equally likely: otherwise what a round
    takes from a class makes it rarer for the next one, until it is gone.
    """
    if network:
        return NetworkLearner(features.windows, network, seed, ranks).fit(indexes, masks)
    learner: PixelLearner = (
        LinearLearner(features, even=True, with_zero=True, ranks=ranks)
        if params.learner == "linear"
        else trees(features, params.pixels, seed, **TREES, with_zero=True, ranks=ranks)
    )
    return learner.fit(indexes, masks)
