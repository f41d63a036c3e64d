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
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cluemap.data.parcels.parcels import Parcels
from cluemap.data.parcels.window_maps import parcel_maps
from cluemap.data.series_features import SeriesFeatures
from cluemap.data.windows import Windows
from cluemap.files import atomic, read_json, write_json
from cluemap.model.method.pseudo_masks import IGNORED
from cluemap.model.method.refinement import agreement, allowed, constrained, decided, within_parcels
from cluemap.params import RefineParams
from cluemap.runtime.distributed import ALONE, Ranks
from cluemap.stages.make_cams import SPLITS
from cluemap.stages.make_masks import open_masks, read_masks, write_masks
from cluemap.stages.stage import Stage
from cluemap.training.learners.pixel_learners import CHUNK, LinearLearner, PixelLearner, trees
from cluemap.training.map_scores import map_counts, named_map_scores
from cluemap.training.metrics import Ids, class_names

Masks = dict[str, NDArray[np.uint8]]  # split -> n h w
Borders = dict[str, NDArray[np.int32]]  # split -> n h w, number of the parcel of each pixel, 0 = none
TREES = {"rounds": 40, "leaves": 15}  # of a round's learner: few, so that it cannot learn single pixels by heart
SETTLED = 0.005  # share of pixels that a round changed, from which on another one changes nothing that matters


def refine_masks(stage: Stage, windows: Windows) -> dict[str, Any]:
    """Write `<folder>/masks/` as make_masks does, and give the stage's metrics: the course of the rounds."""
    params, source = stage.params.refine, stage.folder_of("make_masks") / "masks"
    first, digest = read_masks(source, windows)
    masks: Masks = {"train": np.asarray(first), "validation": np.asarray(open_masks(source, "validation", windows))}
    course: list[dict[str, float]] = []
    if params.learner != "none":
        background = windows.card.legend.background
        masks = {split: found if background else with_rest(found) for split, found in masks.items()}
        if params.start == "image_labels":
            masks = {split: at_random(windows, split, stage.params.seed) for split in SPLITS}
        masks, course = _rounds(stage, windows, masks, digest)
        masks = {split: found if background else without_rest(found) for split, found in masks.items()}
    if stage.ranks.first:
        write_masks(stage.folder / "masks", masks, windows, {"rounds": len(course), "source": digest})
        shutil.rmtree(stage.state, ignore_errors=True)
    return {"rounds": len(course), "course": course}


def _rounds(stage: Stage, windows: Windows, masks: Masks, digest: str) -> tuple[Masks, list[dict[str, float]]]:
    """All rounds, from the last one that an interrupted try finished; the masks of the round where they stop."""
    params, ranks = stage.params.refine, stage.ranks
    identity = {**params.model_dump(mode="json"), "seed": stage.params.seed, "masks": digest}
    borders: Borders | None = None
    if params.parcels:
        parcels = Parcels.open(stage.folder_of("prepare_parcels") / "parcels")
        borders = {split: parcel_maps(parcels, windows, windows.indexes(split)) for split in SPLITS}
        identity["parcels"] = parcels.card.digest
    done = ranks.agree(_finished_rounds(stage.state, identity) if ranks.first else None)
    course: list[dict[str, float]] = [about for _, about in done]
    history, features = [masks, *(found for found, _ in done)], SeriesFeatures(windows)
    numbers = range(len(done), params.rounds)
    for number in tqdm(numbers, initial=len(done), total=params.rounds, unit="round", disable=not ranks.first):
        if stops(course):
            break
        found = one_round(features, history[-1], params, stage.params.seed + number, ranks, borders)
        about = course_of(found["train"], history[-1]["train"])
        if ranks.first:
            _keep(stage.state, number, found, about, identity)
        history.append(found)
        course.append(about)
    return history[best_round(course)], course


def at_random(windows: Windows, split: str, seed: int) -> NDArray[np.uint8]:
    """n h w: every pixel 0 or one of the classes of its image label, all equally likely.

    A start that owes nothing to any CAM: what the rounds make of it is what the image labels alone tell.
    """
    indexes, size = windows.indexes(split), windows.card.size
    draw = np.random.default_rng([seed, SPLITS.index(split)])
    found = np.empty((len(indexes), size, size), np.uint8)
    for row, classes in zip(found, allowed(windows.image_labels[indexes]), strict=True):
        row[:] = draw.choice(np.flatnonzero(classes), row.shape)
    return found


def with_rest(masks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """n h w: what no crop was given to is the rest, id 0."""
    return np.where(masks == IGNORED, 0, masks).astype(np.uint8)


def without_rest(masks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """n h w: the rest is left out of training."""
    return np.where(masks == 0, IGNORED, masks).astype(np.uint8)


def one_round(
    features: SeriesFeatures, masks: Masks, params: RefineParams, seed: int, ranks: Ranks = ALONE,
    borders: Borders | None = None,
) -> Masks:  # fmt: skip
    """The masks of both splits as learners fitted on the training windows' masks have them under the image labels, and
    inside each parcel alike where `borders` are known.
    """
    windows = features.windows
    indexes = windows.indexes("train")
    fold = folds_of(windows, indexes, params.folds)
    learners = [_learner(features, indexes[fold != one], masks["train"][fold != one], params, seed, ranks)
                if params.folds > 1 else _learner(features, indexes, masks["train"], params, seed, ranks)
                for one in range(params.folds)]  # fmt: skip
    found = np.empty_like(masks["train"])
    for one, learner in enumerate(learners):
        inside = None if borders is None else borders["train"][fold == one]
        found[fold == one] = asked([learner], windows, indexes[fold == one], params, inside)
    inside = None if borders is None else borders["validation"]
    return {"train": found, "validation": asked(learners, windows, windows.indexes("validation"), params, inside)}


def folds_of(windows: Windows, indexes: NDArray[np.int64], folds: int) -> NDArray[np.int64]:
    """n: which part each window is in; windows of one patch are in the same part, patches take turns."""
    _, patch = np.unique(windows.table["patch"].to_numpy()[indexes], return_inverse=True)
    return patch % folds


def asked(
    learners: list[PixelLearner], windows: Windows, indexes: NDArray[np.int64], params: RefineParams,
    borders: NDArray[np.int32] | None = None,
) -> NDArray[np.uint8]:  # fmt: skip
    """n h w: what the learners' mean says of these windows under their image labels; of what a label does not say
    whether it is there, anything may be there. With `borders` (n h w) a parcel is decided as a whole."""
    may, ranks = allowed(windows.possible[indexes]), learners[0].ranks

    def chunk(start: int) -> NDArray[np.uint8]:
        here = slice(start, start + CHUNK)
        first, *others = (learner.of(indexes[here]) for learner in learners)
        mean = sum(others, start=first) / np.float32(len(learners))
        held = constrained(mean, may[here])
        return decided(held if borders is None else within_parcels(held, borders[here]), params.confidence)

    parts = list(ranks.shared_out(range(0, len(indexes), CHUNK), chunk))
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
) -> PixelLearner:
    """A round's learner. The linear one takes all classes as equally likely: otherwise what a round takes from a class
    makes it rarer for the next one, until it is gone.
    """
    learner: PixelLearner = (
        LinearLearner(features, even=True, with_zero=True, ranks=ranks)
        if params.learner == "linear"
        else trees(features, params.pixels, seed, **TREES, with_zero=True, ranks=ranks)
    )
    return learner.fit(indexes, masks)


def _keep(state: Path, number: int, found: Masks, about: dict[str, float], identity: dict[str, Any]) -> None:
    """Put a finished round on disk, so that a stopped try continues after it."""
    for split, masks in found.items():
        with atomic(state / f"round_{number}_{split}.npy") as temporary, temporary.open("wb") as handle:
            np.save(handle, masks)
    write_json(state / f"round_{number}.json", {"identity": identity, "course": about})


def _finished_rounds(state: Path, identity: dict[str, Any]) -> list[tuple[Masks, dict[str, float]]]:
    """The rounds that an interrupted try of the same params and masks finished, in order."""
    found: list[tuple[Masks, dict[str, float]]] = []
    while (card := state / f"round_{len(found)}.json").exists():
        content = read_json(card)
        if content["identity"] != identity:
            return []
        masks = {split: np.load(state / f"round_{len(found)}_{split}.npy", allow_pickle=False) for split in SPLITS}
        found.append((masks, content["course"]))
    return found
