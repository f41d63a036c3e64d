"""The work of stage make_masks: CAMs -> pseudo masks, and then their scores against the truth.

`make_masks` opens no training mask (with `masks.threshold: validation` it opens the validation fold's); only
`score_masks`, which comes after and writes nothing but numbers and pictures, reads the truth.
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cluemap.data.windows import Windows
from cluemap.errors import DataError
from cluemap.files import atomic_folder, open_array, read_json, write_json
from cluemap.model.method.pseudo_masks import IGNORED, best_class, pseudo_mask, upsample
from cluemap.params import Params
from cluemap.stages.make_cams import SPLITS, cam_file, sources_of
from cluemap.training.metrics import (
    Curve,
    Ids,
    Scores,
    class_names,
    confusion,
    curve,
    curve_counts,
    named,
    scores,
)

CHUNK = 256  # windows at once
PROBABILITIES = "probabilities_train.npy"
MEND = "run `dvc repro` (stage {})"


class Scored(NamedTuple):
    """One CAM source on one split."""

    at_threshold: Scores
    curve: Curve


def make_masks(windows: Windows, cams: Path, params: Params, folder: Path) -> float:
    """Write `<folder>/masks/` (masks_<split>.npy uint8 n h w, card.json); gives the threshold that was used."""
    source, background = params.cams.source, windows.card.legend.background
    threshold = choose_threshold(windows, cams, params)
    masks = {}
    for split in SPLITS:
        parts = (
            pseudo_mask(score, winner, threshold, background, params.masks.ignore_band).numpy()
            for score, winner, _ in pixels(windows, cams, source, split)
        )
        masks[split] = undecided(np.concatenate(list(parts)), windows, split)
    write_masks(folder / "masks", masks, windows, {"threshold": threshold, "source": source})
    return threshold


def undecided(masks: NDArray[np.uint8], windows: Windows, split: str) -> NDArray[np.uint8]:
    """n h w -> n h w: no background where the image label leaves open what else a window holds."""
    if windows.known is None:
        return masks
    partial = np.asarray((~windows.known[windows.indexes(split)]).any(axis=1))
    return np.where(partial[:, None, None] & (masks == 0), IGNORED, masks).astype(np.uint8)


def write_masks(
    folder: Path, masks: Mapping[str, NDArray[np.uint8]], windows: Windows, about: dict[str, Any],
    probabilities: NDArray[np.uint8] | None = None,
) -> None:  # fmt: skip
    """Publish the masks of both splits (n h w each) with a card: `about`, the windows they are of, their own digest;
    and the training windows' probabilities (n h w s) where they are kept.
    """
    with atomic_folder(folder) as temporary:
        digest = hashlib.blake2b(digest_size=16)
        for split in SPLITS:
            np.save(temporary / f"masks_{split}.npy", masks[split])
            digest.update(masks[split].tobytes())
        card = {**about, "windows": windows.card.digest, "digest": digest.hexdigest()}
        if probabilities is not None:
            np.save(temporary / PROBABILITIES, probabilities)
            beside = hashlib.blake2b(digest_size=16)
            for start in range(0, len(probabilities), CHUNK):
                beside.update(probabilities[start : start + CHUNK].tobytes())
            card["probabilities"] = beside.hexdigest()
        write_json(temporary / "card.json", card)


def choose_threshold(windows: Windows, cams: Path, params: Params) -> float:
    """`masks.threshold` itself, or the best mIoU on the validation fold. Training masks are not looked at."""
    if isinstance(params.masks.threshold, float):
        return params.masks.threshold
    line = score_source(windows, cams, params.cams.source, "validation", 0.0, params).curve
    return float(line.thresholds[line.best])


def read_masks(folder: Path, windows: Windows) -> tuple[NDArray[np.uint8], str]:
    """The training windows' pseudo masks (n h w) and their digest.

    Raises:
        DataError: missing, or made from other windows.
    """
    card = read_json(folder / "card.json")
    if card.get("windows") != windows.card.digest:
        raise DataError(f"{folder} was made from other windows: run `dvc repro` (stages make_cams and make_masks)")
    return open_masks(folder, "train", windows), card["digest"]


def read_probabilities(folder: Path, windows: Windows) -> tuple[NDArray[np.uint8], str]:
    """The training windows' probabilities of every id 0..K in 255ths (n h w s), memory-mapped, and their digest. 0 is
    the rest of the land where a data set has no background.

    Raises:
        DataError: there are none.
    """
    digest = read_json(folder / "card.json").get("probabilities")
    if digest is None:
        mend = "set refine.keep_probabilities: true and run `dvc repro` (stage refine_masks)"
        raise DataError(f"{folder} holds no probabilities beside the masks: {mend}")
    size = windows.card.size
    shape = (len(windows.indexes("train")), size, size, len(windows.card.legend.classes) + 1)
    return open_array(folder / PROBABILITIES, np.uint8, shape, MEND.format("refine_masks")), digest


def open_masks(folder: Path, split: str, windows: Windows) -> NDArray[np.uint8]:
    """One split's pseudo masks (n h w), memory-mapped. Raises as `read_masks`."""
    size = windows.card.size
    file = folder / f"masks_{split}.npy"
    return open_array(file, np.uint8, (len(windows.indexes(split)), size, size), MEND.format("make_masks"))


def score_masks(windows: Windows, cams: Path, threshold: float, params: Params) -> tuple[dict, dict[str, Curve]]:
    """Scores of every source's masks at the used threshold and, as `oracle`, at each one's best; chooses nothing.

    Gives the stage's metrics and, per source, the training windows' curve.
    """
    names = class_names(windows.card.legend)
    metrics: dict = {"threshold": threshold}
    curves: dict[str, Curve] = {}
    for split in SPLITS:
        for source in sources_of(params):
            found = score_source(windows, cams, source, split, threshold, params)
            if source == params.cams.source:
                metrics[split] = {**named(found.at_threshold, names), "oracle": oracle(found)}
            metrics.setdefault("sources", {}).setdefault(source, {})[split] = {
                "miou": float(found.at_threshold.miou),
                "overall_accuracy": float(found.at_threshold.overall_accuracy),
                "oracle": oracle(found),
            }
            if split == "train":
                curves[source] = found.curve
    return metrics, curves


def oracle(found: Scored) -> dict[str, float]:
    """What the best threshold would give, and the gap to it: reported, never used."""
    best = found.curve.best
    return {
        "threshold": float(found.curve.thresholds[best]),
        "miou": float(found.curve.miou[best]),
        "overall_accuracy": float(found.curve.overall_accuracy[best]),
        "gap": float(found.curve.miou[best] - found.at_threshold.miou),
    }


def score_source(windows: Windows, cams: Path, source: str, split: str, threshold: float, params: Params) -> Scored:
    """Score one source's masks on one split, and their whole threshold curve, in one pass over the CAMs."""
    legend = windows.card.legend
    ids = Ids(len(legend.classes), legend.background)
    points = params.masks.curve_points
    truth = windows.masks(split)
    counts, bins = np.zeros((ids.size, ids.size + 1), np.int64), np.zeros((points + 1, ids.size, ids.crops), np.int64)
    for score, winner, rows in pixels(windows, cams, source, split):
        found = pseudo_mask(score, winner, threshold, ids.background).numpy()
        counts += confusion(truth[rows], found, ids)
        bins += curve_counts(score.numpy(), winner.numpy(), truth[rows], points, ids)
    return Scored(scores(counts), curve(bins, ids))


def pixels(windows: Windows, cams: Path, source: str, split: str) -> Iterator[tuple[torch.Tensor, torch.Tensor, slice]]:
    """Best score and its class per pixel (b h w each), chunk by chunk, with the rows of the split they are."""
    maps = read_cams(cams, source, split, windows)
    labels = torch.from_numpy(windows.image_labels[windows.indexes(split)])
    for start in range(0, len(maps), CHUNK):
        rows = slice(start, start + CHUNK)
        chunk = torch.from_numpy(np.asarray(maps[rows], dtype=np.float32))
        yield (*best_class(upsample(chunk, windows.card.size), labels[rows]), rows)


def read_cams(cams: Path, source: str, split: str, windows: Windows) -> NDArray[np.float16]:
    """n k i j, memory-mapped.

    Raises:
        DataError: missing, damaged, or of other windows.
    """
    shape = (len(windows.indexes(split)), len(windows.card.legend.classes), None, None)
    return open_array(cam_file(cams, source, split), np.float16, shape, MEND.format("make_cams"))
