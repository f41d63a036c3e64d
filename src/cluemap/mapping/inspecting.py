"""What a scene holds, before anything is trained: numbers, warnings, and a page to look at."""

import base64
import io
from collections import Counter
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np
from matplotlib.colors import ListedColormap, to_rgba
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tqdm import tqdm

from cluemap.data.cutting import starts
from cluemap.data.labels import known_labels, split_of
from cluemap.data.patches import NODATA, SPLITS, VOID, Legend
from cluemap.data.scene.imagery import Imagery
from cluemap.data.scene.reader import SceneReader, open_scene
from cluemap.files import atomic
from cluemap.params import WindowParams

FEW_DATES, FEW_WINDOWS, MUCH_CLOUD = 8, 30, 0.5
SAMPLES, SIDE = 6, 32  # a grid of 6 x 6 pieces of 32 px is looked at per date: a whole tile would take an hour
STEP = 512  # rows of labels drawn at once


@dataclass
class Findings:
    """Everything the page shows."""

    legend: Legend
    seen: list[float]  # per date: share of the sampled pixels that are seen
    pixels: dict[str, int]  # per class
    windows: dict[str, Counter] = field(default_factory=dict)  # per split: windows per class
    counts: Counter = field(default_factory=Counter)  # windows per split
    examples: list[tuple[str, str, str]] = field(default_factory=list)  # window, split, image label
    warnings: list[str] = field(default_factory=list)


def inspect(folder: Path, params: WindowParams, progress: bool = True) -> tuple[SceneReader, Findings]:
    """Look at the scene under `folder`; labels in full, images by samples. Raises DataError."""
    reader = open_scene(folder, params)
    dates = tqdm(range(len(reader.imagery.dates)), "inspect", unit="date", disable=not progress)
    found = Findings(reader.legend, [seen_share(reader.imagery, date) for date in dates], _pixels(reader))
    found.windows = {split: Counter() for split in SPLITS}
    _windows(reader, params, found)
    found.warnings = warnings(reader, found)
    return reader, found


def seen_share(imagery: Imagery, date: int) -> float:
    """Share of the sampled pixels of a date that were seen and are not hidden by its SCL."""
    grid, shares = imagery.grid, []
    for row in np.linspace(0, max(0, grid.height - SIDE), SAMPLES).astype(int):
        for column in np.linspace(0, max(0, grid.width - SIDE), SAMPLES).astype(int):
            rows = slice(int(row), min(int(row) + SIDE, grid.height))
            columns = slice(int(column), min(int(column) + SIDE, grid.width))
            shares.append((imagery.read_date(date, rows, columns) != NODATA).any(axis=0).mean())
    return float(np.mean(shares))


def warnings(reader: SceneReader, found: Findings) -> list[str]:
    """What is likely to spoil a training."""
    said, dates = [], reader.imagery.dates
    useful = sum(share > 1 - MUCH_CLOUD for share in found.seen)
    if useful < FEW_DATES:
        said.append(
            f"only {useful} of {len(dates)} dates show more than half of the land: crops need a whole season, "
            f"{FEW_DATES} dates or more"
        )
    empty = [str(day) for day, share in zip(dates, found.seen, strict=True) if share == 0]
    if empty:
        said.append(f"dates without any data in the samples: {', '.join(empty)}")
    for name in found.legend.class_names:
        total = sum(counter[name] for counter in found.windows.values())
        if total < FEW_WINDOWS:
            said.append(
                f"class {name!r} is present in {total} windows, under {FEW_WINDOWS}: label more, or merge classes"
            )
        for split in SPLITS:
            if total and not found.windows[split][name]:
                said.append(
                    f"class {name!r} has no window in the {split} split: try another split.seed or smaller blocks"
                )
    return said + [f"the {split} split has no windows" for split in SPLITS if not found.counts[split]]


def write_page(file: Path, reader: SceneReader, found: Findings) -> None:
    """One HTML file that needs no other."""
    grid, dates = reader.imagery.grid, reader.imagery.dates
    rows = "".join(f"<tr><td>{d}<td>{share:.0%}<td>{1 - share:.0%}" for d, share in zip(dates, found.seen, strict=True))
    classes = "".join(
        f"<tr><td>{escape(name)}<td>{count:,}<td>" + "<td>".join(str(found.windows[split][name]) for split in SPLITS)
        for name, count in found.pixels.items()
    )
    said = "".join(f"<li>{escape(text)}" for text in found.warnings) or "<li>none"
    shown = "".join(f"<tr><td>{name}<td>{split}<td>{escape(text)}" for name, split, text in found.examples)
    pictures = "".join(f'<img src="data:image/png;base64,{_png(figure)}">' for figure in figures(reader, found))
    counted = ", ".join(f"{found.counts[split]} {split}" for split in SPLITS)
    splits = "".join(f"<th>windows, {split}" for split in SPLITS)
    page = f"""<!doctype html><meta charset="utf-8"><title>{escape(str(reader.file.parent.name))}</title>
<style>body{{font:15px sans-serif;margin:2em;max-width:1200px}}
td,th{{padding:2px 12px;text-align:left}}img{{max-width:100%}}
table{{border-collapse:collapse}}tr{{border-bottom:1px solid #ddd}}</style>
<h1>{escape(reader.file.parent.name)}</h1><p>{escape(str(grid))}; {len(dates)} dates; windows: {counted}.
<h2>Warnings</h2><ul>{said}</ul>{pictures}
<h2>Classes</h2><table><tr><th>class<th>pixels{splits}{classes}</table>
<h2>Dates</h2><p>From {SAMPLES**2} samples of {SIDE} px.<table><tr><th>date<th>seen<th>cloud or no data{rows}</table>
<h2>Windows and their image labels</h2><table><tr><th>window<th>split<th>classes{shown}</table>"""
    with atomic(file) as temporary:
        temporary.write_text(page, encoding="utf-8")


def figures(reader: SceneReader, found: Findings) -> list[Figure]:
    """True-colour thumbnails of the middle on up to 12 dates, and the labels over one of them."""
    imagery, grid = reader.imagery, reader.imagery.grid
    rows, columns = (_middle(length) for length in (grid.height, grid.width))
    chosen = np.unique(np.linspace(0, len(imagery.dates) - 1, 12).round().astype(int))
    thumbnails = Figure(figsize=(12, 2.2 * -(-len(chosen) // 6)), layout="constrained")
    axes = np.atleast_1d(thumbnails.subplots(-(-len(chosen) // 6), 6)).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, date in zip(axes, chosen, strict=False):
        axis.imshow(_true_colour(imagery.read_date(int(date), rows, columns), found.legend))
        axis.set_title(str(imagery.dates[date]), fontsize=8)
    best = int(np.argmax(found.seen))
    over = Figure(figsize=(7, 7), layout="constrained")
    axis = over.subplots()
    axis.imshow(_true_colour(imagery.read_date(best, rows, columns), found.legend))
    colours = np.zeros((256, 4))
    for number, crop in enumerate(found.legend.classes, 1):
        colours[number] = (*to_rgba(crop.colour)[:3], 0.55)
    labels = reader.labels.ids(grid.cut(rows, columns))
    axis.imshow(labels, cmap=ListedColormap(colours), vmin=0, vmax=255, interpolation="nearest")
    axis.set(title=f"labels over {imagery.dates[best]}, the scene's middle", xticks=[], yticks=[])
    return [thumbnails, over]


def _windows(reader: SceneReader, params: WindowParams, found: Findings) -> None:
    """Image labels of all windows of labelled land; no image is read."""
    for piece in reader.pieces:
        place = reader.imagery.grid.cut(piece.rows, piece.columns)
        labels, known = reader.labels.ids(place), reader.labels.knowledge(place)
        split, number = split_of(piece.fold, params.fold), piece.first_window
        for row in starts(place.height, params.size, params.stride, params.flush_edge):
            for column in starts(place.width, params.size, params.stride, params.flush_edge):
                here = slice(row, row + params.size), slice(column, column + params.size)
                held = known_labels(labels, known, *here, params.presence)
                if held is not None:
                    names = [name for name, has in zip(found.legend.class_names, held, strict=True) if has]
                    found.windows[split].update(names)
                    found.counts[split] += 1
                    if len(found.examples) < 200:
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


def _middle(length: int, most: int = 480) -> slice:
    size = min(length, most)
    return slice((length - size) // 2, (length - size) // 2 + size)


def _true_colour(picture: NDArray[np.int16], legend: Legend) -> NDArray[np.float32]:
    """c h w -> h w 3, 0..1; grey where nothing was seen."""
    shown = picture[list(legend.true_colour)].transpose(1, 2, 0)
    bright = np.clip(shown / (0.3 * legend.reflectance_scale), 0, 1)
    return np.where(shown == NODATA, 0.6, bright).astype(np.float32)


def _png(figure: Figure) -> str:
    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=90)
    return base64.b64encode(held.getvalue()).decode()
