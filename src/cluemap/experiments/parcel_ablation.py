"""Parcel networks and baselines over folds and seeds, from parcel labels and from image labels, in one table."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cluemap.data.parcels.parcels import Parcels
from cluemap.experiments.ablation import line
from cluemap.experiments.pipelines import Pipeline, make_pipeline, run_all
from cluemap.files import read_json, write_json
from cluemap.params import load_params
from cluemap.paths import stage_folder
from cluemap.runtime import distributed
from cluemap.stages.parcels.pixel_majority import score_majority
from cluemap.stages.stage import Stage
from cluemap.training.parcels.parcel_scores import accuracy_interval

PIXEL_STAGES = (
    *("train_classifier", "make_cams", "make_masks", "refine_masks"), *("train_segmenter", "train_reference"),
)  # fmt: skip
TAUGHT = {
    "parcels": "parcel labels",
    "image_labels": "image labels alone",
    "instances": "image labels, multiple instances",
    "masks": "image labels, votes of masks",
    "cams": "image labels, votes of CAMs",
}
PIXELS = {"weak": "pixel route from image labels", "full": "pixel route from true masks"}
SCORES = {"accuracy": "accuracy", "miou": "mIoU", "calibration_error": "calibration error"}


@dataclass(frozen=True)
class Plan:
    """What is run; image labels of `weak_folds` alone, since each of them and each seed takes a pixel pipeline."""

    dataset: str
    folder: Path
    seeds: Sequence[int]
    folds: Sequence[int]
    weak_folds: Sequence[int]
    kinds: Sequence[str]
    labels: Sequence[str]
    jobs: int

    def cells(self) -> list[tuple[str, str, int, int]]:
        """(kind, labels, fold, seed) of every training."""
        return [
            (kind, labels, fold, seed)
            for labels in self.labels
            for kind in self.kinds
            for fold in (self.folds if labels == "parcels" else self.weak_folds)
            for seed in self.seeds
        ]


def ablate_parcels(plan: Plan) -> list[dict[str, Any]]:
    """Run (or resume) everything; one row of numbers per line of the table. Raises StageFailed: see `run_all`."""
    shared = make_pipeline(plan.dataset, plan.folder / "parcels", plan.folder / "none", {})
    run_all([(shared, ("prepare_parcels",))], 1)
    windows = _windows(plan) if set(plan.labels) != {"parcels"} else {}
    images = _pixel_routes(plan, windows) if {"masks", "cams"} & set(plan.labels) else {}
    trained = {}
    for kind, labels, fold, seed in plan.cells():
        base, prepared = images.get((fold, seed)), windows.get(fold, plan.folder / "none")
        changes = {"windows.fold": fold, "seed": seed, "parcels.kind": kind, "parcels.labels": labels}
        where = plan.folder / f"{kind}_{labels}_{fold}_{seed}"
        pipeline = make_pipeline(plan.dataset, where, prepared, changes)
        pipeline.take(shared, ("prepare_parcels",))
        if base and labels in ("masks", "cams"):
            pipeline.take(base, ("make_cams", "refine_masks"))
        trained[kind, labels, fold, seed] = pipeline
    run_all([(pipeline, ("train_parcels",)) for pipeline in trained.values()], plan.jobs)
    parcels = Parcels.open(stage_folder(plan.dataset, "prepare_parcels", shared.folder) / "parcels")
    rows = _rows(plan, {cell: pipeline.metrics("train_parcels") for cell, pipeline in trained.items()})
    return rows + _majority_rows(plan, images, parcels)


def _windows(plan: Plan) -> dict[int, Path]:
    """Fold -> its prepared windows."""
    found = {}
    for fold in plan.weak_folds:
        changes, where = {"windows.fold": fold}, plan.folder / f"windows_{fold}"
        pipeline = make_pipeline(plan.dataset, where, plan.folder / "none", changes)
        found[fold] = stage_folder(plan.dataset, "prepare", pipeline.folder)
        run_all([(Pipeline(plan.dataset, where, found[fold]), ("prepare",))], 1)
    return found


def _pixel_routes(plan: Plan, windows: dict[int, Path]) -> dict[tuple[int, int], Pipeline]:
    """(fold, seed) -> the pipeline from image labels to masks and segmenters."""
    found = {}
    for fold, prepared in windows.items():
        for seed in plan.seeds:
            changes = {"windows.fold": fold, "seed": seed}
            found[fold, seed] = make_pipeline(plan.dataset, plan.folder / f"images_{fold}_{seed}", prepared, changes)
    run_all([(pipeline, PIXEL_STAGES) for pipeline in found.values()], plan.jobs)
    return found


def _rows(plan: Plan, metrics: dict[tuple[str, str, int, int], dict[str, Any]]) -> list[dict[str, Any]]:
    """A row per way of labelling, learner and score; a value is a seed's mean over its folds."""
    rows = []
    for labels in plan.labels:
        learners = {kind: kind for kind in plan.kinds} | dict.fromkeys(("trees", "forest"), plan.kinds[0])
        for learner, kind in learners.items():
            folds = plan.folds if labels == "parcels" else plan.weak_folds
            found = {seed: [metrics[kind, labels, fold, seed] for fold in folds] for seed in plan.seeds}
            if any(learner not in one["test"] for each in found.values() for one in each):
                continue
            for score, words in SCORES.items():
                values = [float(np.mean([one["test"][learner][score] for one in each])) for each in found.values()]
                rows.append(line(f"{learner}, {TAUGHT[labels]}, {words}", values))
            rows[-len(SCORES)]["pooled"] = _pooled(found[plan.seeds[0]], learner)
        if labels != "parcels":
            for key, words in (("labelled_share", "parcels labelled"), ("accuracy", "accuracy of the labels")):
                values = [
                    float(np.mean([metrics[plan.kinds[0], labels, fold, seed]["training_labels"][key]
                                   for fold in plan.weak_folds]))
                    for seed in plan.seeds
                ]  # fmt: skip
                rows.append(line(f"{TAUGHT[labels]}: {words}", values))
    return rows


def _pooled(each: list[dict[str, Any]], learner: str) -> dict[str, Any]:
    """Of the first seed: all folds' test parcels together, and the interval of their accuracy."""
    counts = np.sum([one["test"][learner]["confusion"] for one in each], axis=0)
    right, total = int(np.trace(counts)), int(counts.sum())
    return {"right": right, "parcels": total, "interval": accuracy_interval(right, total)}


def _majority_rows(plan: Plan, images: dict[tuple[int, int], Pipeline], parcels: Parcels) -> list[dict[str, Any]]:
    """The pixel route's parcel majority on the test parcels that lie in test windows."""
    found: dict[str, dict[int, list[dict[str, Any]]]] = {kind: {seed: [] for seed in plan.seeds} for kind in PIXELS}
    for (fold, seed), pipeline in images.items():
        file = pipeline.folder / "majority.json"
        if not file.exists():
            params = load_params(plan.dataset, pipeline.params_file)
            stage = Stage("evaluate", params, distributed.join(), pipeline.folder, pipeline.prepared)
            write_json(file, score_majority(stage, parcels, parcels.splits(fold)))
        for kind, scores in read_json(file).items():
            found[kind][seed].append(scores)
    return [
        line(f"{PIXELS[kind]}, parcel majority, {words}",
             [float(np.mean([one[score] for one in each])) for each in by_seed.values()])
        for kind, by_seed in found.items() if images
        for score, words in SCORES.items() if score != "calibration_error"
    ]  # fmt: skip
