"""What a scene holds, before anything is trained: numbers and warnings."""

from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cluemap.data.image_labels import known_labels, split_of
from cluemap.data.patches import NODATA, SPLITS, VOID
from cluemap.data.scenes.imagery import READERS, Imagery, open_imagery
from cluemap.data.scenes.reflectance import check_level
from cluemap.data.scenes.scene_file import read_scene
from cluemap.data.scenes.scene_reader import SceneReader, open_scene
from cluemap.data.scenes.seasons import of_years
from cluemap.data.scenes.tables import listed
from cluemap.data.windowing import starts
from cluemap.errors import DataError
from cluemap.mapping.inspection.split_advice import advice, missing
from cluemap.params import WindowParams, load_params, read_tree
from cluemap.paths import ROOT

FEW_DATES, FEW_WINDOWS, MUCH_CLOUD = 8, 30, 0.5
SAMPLES, SIDE = 5, 32  # a grid of 5 x 5 pieces of 32 px is looked at per date: a whole tile would take an hour
STEP = 512  # rows of labels drawn at once
EXAMPLES = 200  # windows that the page lists


@dataclass
class Findings:
    """Everything the page shows. Without labels that can be read, `reader` is None and the rest is empty."""

    folder: Path
    imagery: Imagery  # of the true-colour bands alone
    true_colour: tuple[int, int, int]  # which of them are red, green, blue
    reader: SceneReader | None
    seen: list[float]  # per date: share of the sampled pixels that are seen
    fold: int  # windows.fold: which folds are which split
    pixels: dict[str, int] = field(default_factory=dict)  # per class
    windows: dict[str, Counter] = field(default_factory=dict)  # per split: windows per class
    counts: Counter = field(default_factory=Counter)  # windows per split
    folds: dict[int, Counter] = field(default_factory=lambda: defaultdict(Counter))  # per fold: windows per class
    fold_counts: Counter = field(default_factory=Counter)  # windows per fold
    blocks: dict[str, Counter] = field(default_factory=lambda: defaultdict(Counter))  # per block: windows per class
    examples: list[tuple[str, str, str]] = field(default_factory=list)  # window, split, image label
    errors: list[str] = field(default_factory=list)  # what keeps the scene from being used
    warnings: list[str] = field(default_factory=list)  # what is likely to spoil a training
    notes: list[str] = field(default_factory=list)  # what was left out

    @property
    def said(self) -> dict[str, list[str]]:
        """All texts by their weight."""
        return {"Errors": self.errors, "Warnings": self.warnings, "Notes": self.notes}


def inspect(folder: Path, params: WindowParams, progress: bool = True) -> Findings:
    """Look at the scene under `folder`; labels in full, images by samples. Unusable labels are among the errors.

    Raises:
        DataError: a scene.yaml or images that cannot be read.
    """
    scene, reader, errors = read_scene(folder), None, []
    try:
        reader = open_scene(folder, params)
    except DataError as error:
        errors = [str(error)] if scene.labels else []
    shown = list(dict.fromkeys(scene.images.true_colour))  # decoding the other bands would take several times as long
    imagery = open_imagery(folder, scene, shown)  # raises again if the images were the reason
    if reader is None:
        errors = errors or [str(error) for error in _level(imagery, folder)]
    red, green, blue = (shown.index(band) for band in scene.images.true_colour)
    with ThreadPoolExecutor(READERS) as pool:
        shares = pool.map(partial(seen_share, imagery), range(len(imagery.dates)))
        seen = list(tqdm(shares, "inspect", len(imagery.dates), unit="date", disable=not progress))
    found = Findings(folder, imagery, (red, green, blue), reader, seen, params.fold, errors=errors)
    found.notes = [*imagery.notes, *(reader.labels.notes if reader else [])]
    if reader:
        found.pixels = _pixels(reader)
        found.windows = {split: Counter() for split in SPLITS}
        _windows(reader, params, found)
        found.warnings = _of_labels(reader, found, scene.split.block)
        (found.notes if reader.fields else found.warnings).extend(reader.split_notes)
        if reader.labels.missed:
            found.notes.append(f"{reader.labels.missed} of the labels' features lie outside the images")
    found.warnings += [*of_years(imagery.dates), *_of_images(found)]
    return found


def windows_of(folder: Path, file: Path | None = None) -> tuple[WindowParams, str]:
    """How `prepare` will cut the scene under `folder`, and where that is said: the data set of params.yaml whose raw
    data lie there, else the file's own block `windows`. Raises ParamsError."""
    file = file or ROOT / "params.yaml"
    tree = read_tree(file)
    for dataset, root in (tree.get("datasets") or {}).items():
        if dataset in tree and (ROOT / str(root)).resolve() == folder.resolve():
            return load_params(dataset, file).windows, f"{dataset}.windows of {file.name}"
    return WindowParams.model_validate(tree.get("windows")), f"windows of {file.name}"


def _level(imagery: Imagery, folder: Path) -> list[DataError]:
    try:
        check_level(imagery, folder)
    except DataError as error:
        return [error]
    return []


def seen_share(imagery: Imagery, date: int) -> float:
    """Share of the sampled pixels of a date that were seen and are not hidden by its SCL."""
    grid, shares = imagery.grid, []
    for row in np.linspace(0, max(0, grid.height - SIDE), SAMPLES).astype(int):
        for column in np.linspace(0, max(0, grid.width - SIDE), SAMPLES).astype(int):
            rows = slice(int(row), min(int(row) + SIDE, grid.height))
            columns = slice(int(column), min(int(column) + SIDE, grid.width))
            shares.append((imagery.read_date(date, rows, columns) != NODATA).any(axis=0).mean())
    return float(np.mean(shares))


def _of_images(found: Findings) -> list[str]:
    """What in the images is likely to spoil a training."""
    said, dates = [], found.imagery.dates
    useful = sum(share > 1 - MUCH_CLOUD for share in found.seen)
    if useful < FEW_DATES:
        said.append(
            f"only {useful} of {len(dates)} dates show more than half of the land: crops need a whole season, "
            f"{FEW_DATES} dates or more"
        )
    if not found.imagery.masked:
        said.append("not every date has a scene classification (SCL) that is used: clouds there count as seen")
    empty = [str(day) for day, share in zip(dates, found.seen, strict=True) if share == 0]
    return said + ([f"dates without any data in the samples: {', '.join(empty)}"] if empty else [])


def _of_labels(reader: SceneReader, found: Findings, block: float) -> list[str]:
    """What in the labels is likely to spoil a training: few texts, the gravest first."""
    said = [f"the {split} split has no windows" for split in SPLITS if not found.counts[split]]
    names = reader.legend.class_names
    totals = {name: sum(counter[name] for counter in found.windows.values()) for name in names}
    if none := [name for name in names if not totals[name]]:
        said.append(f"no window holds {listed(none)}: are there labels of them on the images?")
    if lacking := missing(found.windows, names):
        said.append(f"{'; '.join(lacking)}: {advice(reader, found.blocks, found.fold, block)}")
    if few := [f"{name} ({totals[name]})" for name in names if 0 < totals[name] < FEW_WINDOWS]:
        said.append(f"classes present in under {FEW_WINDOWS} windows: {listed(few)}; label more, or merge classes")
    return said


def _windows(reader: SceneReader, params: WindowParams, found: Findings) -> None:
    """Image labels of all windows of labelled land; no image is read."""
    for piece in reader.pieces:
        place = reader.imagery.grid.cut(piece.rows, piece.columns)
        labels, known = reader.labels.ids(place, piece.fold), reader.labels.knowledge(place, piece.fold)
        split, number = split_of(piece.fold, params.fold), piece.first_window
        for row in starts(place.height, params.size, params.stride, params.flush_edge):
            for column in starts(place.width, params.size, params.stride, params.flush_edge):
                here = slice(row, row + params.size), slice(column, column + params.size)
                held = known_labels(labels, known, *here, params.presence)
                if held is not None:
                    names = [name for name, has in zip(reader.legend.class_names, held, strict=True) if has]
                    found.windows[split].update(names)
                    found.folds[piece.fold].update(names)
                    found.fold_counts[piece.fold] += 1
                    found.blocks[piece.block].update(names)
                    found.counts[split] += 1
                    if len(found.examples) < EXAMPLES:
                        found.examples.append((f"{piece.block}_{number}", split, ", ".join(names) or "none"))
                number += 1


def _pixels(reader: SceneReader) -> dict[str, int]:
    grid, counts = reader.imagery.grid, np.zeros(256, np.int64)
    for top in range(0, grid.height, STEP):
        strip = grid.cut(slice(top, min(top + STEP, grid.height)), slice(0, grid.width))
        counts += np.bincount(reader.labels.ids(strip).ravel(), minlength=256)
    ground = {"background": int(counts[0])} if reader.legend.background else {}
    crops = {name: int(counts[number]) for number, name in enumerate(reader.legend.class_names, 1)}
    return {**crops, **ground, "unlabelled": int(counts[VOID])}
