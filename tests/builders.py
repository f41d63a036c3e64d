"""Tiny data sets for tests: published PASTIS and PASTIS24 trees, and the prepared form, none made with the library."""

import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
COLOURS = ("#aa0000", "#00aa00", "#0000aa", "#aaaa00", "#00aaaa", "#aa00aa", "#550000", "#005500")
NODATA, VOID = -10000, 255


def write_pastis(
    root: Path,
    patches: int | Mapping[int, int] = 5,
    size: int = 48,
    dates: int | Sequence[int] = 7,
    seed: int = 0,
    classes: Sequence[int] = (1, 2, 3),
    dates_as_string: bool = False,
    drawn: Callable[[np.random.Generator, int, Sequence[int]], np.ndarray] | None = None,
) -> Path:
    """A published-layout PASTIS tree: `patches` as {id: fold} or a number (ids from 10000, folds 1..5 in turn).

    `dates`: how many, the same for all or one per patch. Labels are blocks of 6 px of 0, `classes` and (rarely) 19;
    every class has its own spectrum and course of the year, so that a network can learn something.
    `drawn` draws other labels: generator, size, classes -> h w.
    """
    generator = np.random.default_rng(seed)
    folds = dict(patches) if isinstance(patches, Mapping) else {10000 + i: i % 5 + 1 for i in range(patches)}
    lengths = [dates] * len(folds) if isinstance(dates, int) else list(dates)
    for name in ("DATA_S2", "ANNOTATIONS"):
        (root / name).mkdir(parents=True, exist_ok=True)
    features = []
    for number, ((patch, fold), length) in enumerate(zip(folds.items(), lengths, strict=True)):
        labels = (drawn or block_labels)(generator, size, classes)
        days = sorted(generator.choice(380, length, replace=False).tolist())
        images = class_series(generator, labels, np.array(days))
        target = np.stack([labels, generator.integers(0, 50, labels.shape), np.zeros_like(labels)]).astype(np.uint8)
        np.save(root / "DATA_S2" / f"S2_{patch}.npy", images)
        np.save(root / "ANNOTATIONS" / f"TARGET_{patch}.npy", target)
        features.append(feature(patch, fold, days, size, number, dates_as_string))
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::2154"}}
    tree = {"type": "FeatureCollection", "features": features, "crs": crs}
    (root / "metadata.geojson").write_text(json.dumps(tree))
    return root


def feature(patch: int, fold: int, days: Sequence[int], size: int, number: int, dates_as_string: bool) -> dict:
    """One member of metadata.geojson: a square of `size` x 10 m, along the axes of EPSG:2154."""
    dates = {str(i): int((date(2018, 9, 20) + timedelta(days=int(d))).strftime("%Y%m%d")) for i, d in enumerate(days)}
    left, top, side = 400000.0 + 20000 * number, 6900000.0, 10.0 * size
    ring = [[left, top], [left + side, top], [left + side, top - side], [left, top - side], [left, top]]
    properties = {
        "ID_PATCH": patch,
        "Fold": fold,
        "TILE": "t30uxv",
        "N_Parcel": 9,
        "Parcel_Cover": 0.5,
        "dates-S2": json.dumps(dates) if dates_as_string else dates,
    }
    geometry = {"type": "MultiPolygon", "coordinates": [[ring]]}
    return {"id": str(number), "type": "Feature", "properties": properties, "geometry": geometry}


def block_labels(generator: np.random.Generator, size: int, classes: Sequence[int]) -> np.ndarray:
    """h w, published ids: fields of 6 x 6 px, half of them background, one in fifty void, and surely the last one."""
    chances = [0.48, *[0.5 / len(classes)] * len(classes), 0.02]
    fields = generator.choice([0, *classes, 19], (-(-size // 6), -(-size // 6)), p=chances)
    fields[-1, -1] = 19
    return np.kron(fields, np.ones((6, 6), int))[:size, :size]


def class_series(generator: np.random.Generator, labels: np.ndarray, days: np.ndarray) -> np.ndarray:
    """h w, t -> int16 t c h w: a course of the year per class, noise, and a corner without data on the second date."""
    phase = labels[None, None] * 1.7 + np.arange(len(BANDS))[None, :, None, None] * 0.3
    weather = generator.normal(0, 150, (len(days), 1, 1, 1))
    course = 2500 + 900 * np.sin(days[:, None, None, None] / 58.0 + phase) + weather
    images = (course + generator.normal(0, 60, course.shape)).astype(np.int16)
    if len(days) > 1:
        images[1, :, :5, :4] = NODATA
    return images


def write_pastis24(root: Path, names: Sequence[str], dates: int = 7, seed: int = 0, **changed: object) -> Path:
    """PASTIS24 pickles "<patch>_<j>" straight in `root`; `changed` replaces members of every pickle's dict."""
    generator = np.random.default_rng(seed)
    root.mkdir(parents=True, exist_ok=True)
    for name in names:
        labels = block_labels(generator, 24, (1, 2, 3))
        days = np.sort(generator.integers(1, 367, dates))
        content = {
            "img": class_series(generator, labels, days),
            "labels": np.stack([labels] * 3).astype(np.uint8),
            "doy": days,
        }
        (root / f"{name}.pickle").write_bytes(pickle.dumps({**content, **changed}))
    return root


def write_prepared(
    folder: Path,
    counts: Mapping[str, int] | None = None,
    classes: int = 3,
    size: int = 24,
    dates: tuple[int, int] = (5, 9),
    bands: int = 10,
    seed: int = 0,
    dataset: str = "tiny",
    shards: int = 2,
) -> Path:
    """The prepared form (docs/data/common_form.md) straight to disk: `dates` = shortest and longest series."""
    generator = np.random.default_rng(seed)
    counts = dict(counts or {"train": 11, "validation": 5, "test": 3})
    folder.mkdir(parents=True, exist_ok=True)
    splits = [split for split, count in counts.items() for _ in range(count)]
    series, rows, masks = [], [], {split: [] for split in counts}
    for number, split in enumerate(splits):
        length = int(generator.integers(dates[0], dates[1] + 1))
        labels = block_labels(generator, size, range(1, classes + 1)).astype(np.uint8)
        labels[labels == 19] = VOID
        days = np.sort(generator.choice(np.arange(1, 367), length, replace=False)).astype(np.int16)
        images = class_series(generator, np.where(labels == VOID, 0, labels), days)[:, :bands]
        if number % 3 == 0 and length > 2:
            images[2] = NODATA
        series.append((images, days, (images != NODATA).any(axis=(1, 2, 3))))
        rows.append(_row(number, split, length, labels, classes, len(masks[split])))
        masks[split].append(labels)
    _place(rows, shards)
    for shard in range(shards):
        chosen = [images for (images, _, _), row in zip(series, rows, strict=True) if row["shard"] == shard]
        np.save(folder / f"images_{shard:04d}.npy", np.concatenate(chosen))
    np.save(folder / "days.npy", np.concatenate([days for _, days, _ in series]))
    np.save(folder / "valid.npy", np.concatenate([valid for _, _, valid in series]))
    for split, maps in masks.items():
        np.save(folder / f"masks_{split}.npy", np.stack(maps))
    pd.DataFrame(rows).to_parquet(folder / "windows.parquet")
    _write_card(folder, series, splits, counts, classes, size, bands, dataset, dates[1])
    return folder


def _row(number: int, split: str, length: int, labels: np.ndarray, classes: int, mask_row: int) -> dict:
    shares = [(labels == k).mean() for k in range(1, classes + 1)]
    fold = {"train": 1, "validation": 4, "test": 5}[split]
    return {
        **{"name": f"{10000 + number}_0", "patch": str(10000 + number), "fold": fold, "split": split, "tile": "t30uxv"},
        **{"row": 0, "column": 0, "x": 400000.0 + 240 * number, "y": 6900000.0, "crs": "EPSG:2154", "pixel": 10.0},
        **{"dates": length, "mask_row": mask_row, "labels": [bool(share > 0.01) for share in shares]},
    }


def _place(rows: list[dict], shards: int) -> None:
    ends, day = [0] * shards, 0
    for number, row in enumerate(rows):
        row["shard"] = number * shards // len(rows)
        row["start"], row["day_start"] = ends[row["shard"]], day
        ends[row["shard"]] += row["dates"]
        day += row["dates"]


def _write_card(folder, series, splits, counts, classes, size, bands, dataset, max_dates) -> None:
    train = np.concatenate([images for (images, _, _), split in zip(series, splits, strict=True) if split == "train"])
    seen = [band[band != NODATA].astype(float) for band in train.swapaxes(0, 1)]
    legend = {
        "bands": BANDS[:bands],
        "true_colour": [2, 1, 0] if bands > 2 else [0, 0, 0],
        "classes": [{"name": f"crop {k}", "colour": COLOURS[k % len(COLOURS)]} for k in range(1, classes + 1)],
        "background": True,
        "reflectance_scale": 10000.0,
    }
    card = {
        **{"dataset": dataset, "legend": legend, "window": size, "counts": counts, "max_dates": max_dates},
        "statistics": {"mean": [b.mean() for b in seen], "std": [b.std() for b in seen]},
        "digest": "0" * 32,
    }
    (folder / "card.json").write_text(json.dumps(card))
