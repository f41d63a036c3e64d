"""The work of train_parcels: a parcel network and two baselines from the same labels, and their scores on test."""

import time
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cluemap.data.parcels.batches import Loading, ParcelData, Scaling, check_published
from cluemap.data.parcels.parcels import Parcels
from cluemap.data.patches import VOID
from cluemap.errors import TrainingError
from cluemap.figures.class_scores import confusion_matrix
from cluemap.figures.curves import training_curves
from cluemap.files import atomic_folder
from cluemap.model.storage import checkpoints
from cluemap.model.storage.parcel_models import FILE, about_parcels
from cluemap.stages.parcels.parcel_labels import UPSTREAM, score_labels, training_labels
from cluemap.stages.stage import Stage
from cluemap.statistics.calibration import calibrated, fit_temperature, reliability
from cluemap.training.parcels import baselines
from cluemap.training.parcels.instances import WindowData, WindowTask, window_data
from cluemap.training.parcels.parcel_scores import parcel_scores
from cluemap.training.parcels.parcel_task import ParcelTask, new_parcel_network, predict

BLOCKS = ("parcels", "windows.fold")  # of params: what decides a training
SPLITS = ("validation", "test")
TINY = 1e-7  # under a probability before its logarithm


def train_parcels(stage: Stage) -> None:
    """Train the network, ask it and the baselines about all parcels, and publish model, predictions and scores."""
    parcels, params = Parcels.open(stage.folder_of("prepare_parcels") / "parcels"), stage.params
    if params.parcels.published:
        check_published(parcels)
    splits = parcels.splits(params.windows.fold)
    labels = training_labels(stage, parcels, splits)
    train = np.flatnonzero(labels.crop != VOID)
    _check(parcels, labels.crop[train], params.parcels.labels)
    targets = np.where(labels.crop == VOID, -1, labels.crop.astype(np.int64) - parcels.card.first)
    loading = Loading(parcels, Scaling.of(parcels, train), targets, masks=not params.parcels.published)
    validation = np.flatnonzero((splits == "validation") & (parcels.truth() != VOID))
    network = new_parcel_network(parcels, params, train)
    kind = WindowTask if params.parcels.labels == "instances" else ParcelTask
    task, data = kind(network, loading, validation, params, stage.ranks), _data(stage, loading, train, splits)
    upstream = ("prepare_parcels", *UPSTREAM[params.parcels.labels])
    identity = {**labels.identity, "labels": blake2b(labels.crop.tobytes(), digest_size=16).hexdigest()}
    with stage.training(task, data, params.parcels, BLOCKS, upstream, identity) as (run, trained):
        network.load_state_dict(checkpoints.split(trained, "network/"))
        started = time.monotonic()
        found = predict(network, loading, np.arange(len(parcels)), params.compute, stage.ranks)
        rate = len(parcels) / (time.monotonic() - started)
        if stage.ranks.first:
            all_found = {params.parcels.kind: found, **_baselines(stage, parcels, train, targets)}
            metrics: dict[str, Any] = {
                "step": trained.step,
                "parcels_per_second_predicted": rate,
                "training_labels": score_labels(parcels, labels.crop, splits),
                **{split: _scores(parcels, all_found, splits, split) for split in SPLITS},
            }
            temperature = metrics["validation"][params.parcels.kind].get("temperature", 1.0)
            about = about_parcels(parcels, loading.scaling, params.parcels, train, temperature)
            with atomic_folder(stage.folder / "model") as folder:
                checkpoints.save(folder / FILE, trained, about)
            _write_predictions(stage.folder / "predictions", parcels, found, splits)
            _draw(stage, run.points(), metrics, parcels)
            stage.finish(run, metrics, _said(metrics, params.parcels.kind), outputs=("model",))


def _data(
    stage: Stage, loading: Loading, train: NDArray[np.int64], splits: NDArray[np.object_]
) -> ParcelData | WindowData:
    """What the network learns from: the parcels that have a label, or the training windows."""
    params = stage.params
    if params.parcels.labels != "instances":
        return ParcelData(loading, train, params.parcels.pixels, params.seed)
    mine, presence = np.flatnonzero(splits == "train"), params.windows.presence
    return window_data(loading, mine, stage.windows(), presence, params.parcels.pixels, params.seed)


def _baselines(
    stage: Stage, parcels: Parcels, train: NDArray[np.int64], targets: NDArray[np.int64]
) -> dict[str, NDArray[np.float32]]:
    """Name -> N k: what each learner, fitted on the same labels, says of every parcel."""
    x, classes = baselines.features(parcels, np.arange(len(parcels)), train), len(parcels.card.names)
    return {
        name: baselines.probabilities(model, x[train], targets[train], x, classes)
        for name, model in baselines.models(stage.params.baselines, stage.params.seed).items()
    }


def _scores(
    parcels: Parcels, found: dict[str, NDArray[np.float32]], splits: NDArray[np.object_], split: str
) -> dict[str, Any]:
    """Learner -> its scores on the parcels of a split that have a true class; calibrated on the validation fold."""
    truth, area = parcels.truth(), parcels.table["area"].to_numpy()
    chosen = {part: np.flatnonzero((splits == part) & (truth != VOID)) for part in SPLITS}
    target = truth.astype(np.int64) - parcels.card.first
    out = {}
    for name, shares in found.items():
        here, there = chosen[split], chosen["validation"]
        logits = np.log(np.maximum(shares, TINY)).astype(np.float64)
        out[name] = parcel_scores(shares[here], target[here], area[here], parcels.card.names)
        out[name]["calibration_error"] = reliability(shares[here].astype(np.float64), target[here]).expected_error
        if len(there):
            temperature = fit_temperature(logits[there], target[there])
            mended = reliability(calibrated(logits[here], temperature), target[here])
            out[name] |= {"temperature": temperature, "calibration_error_mended": mended.expected_error}
    return out


def _check(parcels: Parcels, labels: NDArray[np.uint8], kind: str) -> None:
    if len(np.unique(labels)) < 2:
        mend = "label more"
        if kind in ("masks", "cams"):
            mend = "label more, or lower parcels.least_votes"
        elif kind != "parcels":  # background, where it is a class of parcels, is left to all
            mend = "image labels leave a single class to too few parcels; set parcels.labels to masks"
        raise TrainingError(
            f"{len(labels)} of the training parcels in {parcels.folder} have a label, of {len(np.unique(labels))} "
            f"classes (parcels.labels: {kind}): training wants two classes or more; {mend}"
        )


def _write_predictions(folder: Path, parcels: Parcels, found: NDArray[np.float32], splits: NDArray[np.object_]) -> None:
    """parcels.parquet: every parcel with its crop and its probability, and what is known of it."""
    winner, names = found.argmax(axis=1), np.array(parcels.card.names, object)
    first = parcels.card.first
    true = [None if crop == VOID else names[crop - first] for crop in parcels.truth().tolist()]
    table = parcels.table[["name", "patch", "x", "y", "crs", "area", "pixels", "cut"]].assign(
        split=splits, crop=names[winner], probability=found.max(axis=1).round(4), truth=true
    )
    with atomic_folder(folder) as temporary:
        pd.DataFrame(table).to_parquet(temporary / "parcels.parquet", index=False)


def _draw(stage: Stage, points: list[dict[str, float]], metrics: dict[str, Any], parcels: Parcels) -> None:
    kind = stage.params.parcels.kind
    with atomic_folder(stage.folder / "figures") as folder:
        training_curves(points, folder / "training.png", None, f"{stage.name}, {stage.params.dataset}")
        if metrics["test"][kind]["parcels"]:
            counts, title = np.array(metrics["test"][kind]["confusion"]), f"Confusion matrix, test parcels, {kind}"
            legend = replace(parcels.card.legend, background=parcels.card.background)
            confusion_matrix(counts, legend, folder / "confusion.png", title, "parcels")


def _said(metrics: dict[str, Any], kind: str) -> str:
    scores = metrics["test"].items()
    of_all = ", ".join(f"{name} {found['accuracy']:.3f} / {found['miou']:.3f}" for name, found in scores)
    return f"{kind} of step {metrics['step']}; test accuracy / mIoU of parcels: {of_all}"
