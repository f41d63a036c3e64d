"""The work of train_baselines: pixel by pixel, what a user would try first (trees, a forest), on the same masks.

The stage writes maps, which only `evaluate` holds against the truth of the test fold.
"""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluemap.data.patches import VOID
from cluemap.data.series_features import SeriesFeatures
from cluemap.data.windows import Windows
from cluemap.files import atomic_folder, open_array
from cluemap.model.storage import checkpoints
from cluemap.model.storage.known_series import KnownSeries
from cluemap.model.storage.trained_models import SEGMENTER, about_pixels
from cluemap.params import BaselineParams
from cluemap.stages.make_masks import read_masks
from cluemap.stages.stage import Stage
from cluemap.statistics.model_calibration import temperature_of
from cluemap.statistics.taught_series import taught_series
from cluemap.training.learners.learner_tensors import segmenter_of
from cluemap.training.learners.pixel_learners import LinearLearner, PixelLearner, forest, trees
from cluemap.training.map_scores import map_counts, named_map_scores
from cluemap.training.metrics import Ids, class_names

MASKS = ("weak", "full")  # the final pseudo masks, the true masks
SPLITS = ("validation", "test")


def learners(params: BaselineParams) -> dict[str, Callable[[SeriesFeatures, int], PixelLearner]]:
    """Name -> how to make one; without a forest where `baselines.forest` is 0."""
    found: dict[str, Callable[[SeriesFeatures, int], PixelLearner]] = {
        "linear": lambda features, seed: LinearLearner(features),
        "trees": lambda features, seed: trees(features, params.pixels, seed, params.rounds, params.leaves),
    }
    if params.forest:
        found["forest"] = lambda features, seed: forest(features, params.pixels, seed, params.forest)
    return found


def train_baselines(stage: Stage, windows: Windows) -> dict[str, Any]:
    """Train each learner on both kinds of masks, write its maps and models, and give its scores on the validation fold.
    Without a labelled pixel among the true masks (a scene of areas has none) their maps say nothing.

    `chosen`: of the learners taught by image labels the best on the validation fold, which is what the stage's folder
    maps with.
    """
    params, known, features = stage.params, stage.windows(masks=True), SeriesFeatures(windows)
    masks = {
        "weak": read_masks(stage.folder_of("refine_masks") / "masks", windows)[0],
        "full": known.masks("train"),
    }
    indexes = {"weak": windows.indexes("train"), "full": known.indexes("train")}
    series = {kind: taught_series(of, masks[kind], params.seed) for kind, of in (("weak", windows), ("full", known))}
    metrics: dict[str, Any] = {}
    with atomic_folder(stage.folder / "maps") as folder, atomic_folder(stage.folder / "model") as models:
        for name, make in learners(params.baselines).items():
            for kind in MASKS:
                learner = None
                if kind == "weak" or (masks[kind] != VOID).any():
                    learner = make(features, params.seed).fit(indexes[kind], np.asarray(masks[kind]))
                    _save(models / f"{name}_{kind}" / SEGMENTER, name, learner, windows, stage, series[kind])
                for split in SPLITS:
                    np.save(_file(folder, name, kind, split), _maps(learner, windows, split))
                found = open_maps(folder, name, kind, "validation", windows)
                metrics.setdefault(name, {})[kind] = _scores(windows, found)
        chosen = best({name: found["weak"]["miou"] for name, found in metrics.items()})
        shutil.copyfile(models / f"{chosen}_weak" / SEGMENTER, models / SEGMENTER)
    scores = metrics[chosen]["weak"]
    about = {"learner": chosen, "miou": scores["miou"], "accuracy": scores["overall_accuracy"]}
    return {"validation": metrics, "chosen": about}


def best(scores: Mapping[str, float]) -> str:
    """The name with the highest score, the first of equals; NaN is under all others."""
    return max(scores, key=lambda name: -1.0 if np.isnan(scores[name]) else scores[name])


def _save(
    file: Path, name: str, learner: PixelLearner, windows: Windows, stage: Stage, series: KnownSeries
) -> None:  # fmt: skip
    network = segmenter_of(learner)
    temperature = temperature_of(network.to(stage.ranks.device), windows, stage.params, stage.ranks)
    tensors = {f"network/{key}": value for key, value in network.state_dict().items()} | series.tensors()
    file.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.save(file, tensors, about_pixels(name, windows, stage.params, temperature))


def open_maps(folder: Path, learner: str, kind: str, split: str, windows: Windows) -> NDArray[np.uint8]:
    """n h w: a learner's maps of a split. Raises DataError: missing, damaged, or of other windows."""
    shape = (len(windows.indexes(split)), windows.card.size, windows.card.size)
    return open_array(_file(folder, learner, kind, split), np.uint8, shape, "run `dvc repro` (stage train_baselines)")


def _file(folder: Path, learner: str, kind: str, split: str) -> Path:
    return folder / f"{learner}_{kind}_{split}.npy"


def _maps(learner: PixelLearner | None, windows: Windows, split: str) -> NDArray[np.uint8]:
    """n h w: no prediction (255) without a learner."""
    indexes = windows.indexes(split)
    if learner is None:
        return np.full((len(indexes), windows.card.size, windows.card.size), VOID, np.uint8)
    return learner.maps(indexes)


def _scores(windows: Windows, maps: NDArray[np.uint8]) -> dict[str, Any]:
    legend = windows.card.legend
    counts = map_counts(windows.masks("validation"), maps, Ids(len(legend.classes), legend.background))
    return named_map_scores(counts, class_names(legend))
