"""The findings of an inspection as one HTML page that needs no other file."""

import base64
import io
from html import escape
from pathlib import Path

import numpy as np
import shapely
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch as Swatch
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from cluemap.data.image_labels import split_of
from cluemap.data.patches import NODATA, SPLITS
from cluemap.data.scenes.scene_reader import SceneReader
from cluemap.files import write_text
from cluemap.mapping.inspection.scene_inspection import SAMPLES, SIDE, Findings

THUMBNAILS, ACROSS, MOST = 24, 6, 480  # dates shown, in rows of; pixels a side
BRIGHT = 3000.0  # stored reflectance that is shown as white
COLOURS = dict(zip(SPLITS, ("#4c72b0", "#dd8452", "#55a868"), strict=True))
STYLE = """body{font:15px sans-serif;margin:2em;max-width:1200px}td,th{padding:2px 12px;text-align:left}
img{max-width:100%}table{border-collapse:collapse}tr{border-bottom:1px solid #ddd}"""


def write_page(file: Path, found: Findings) -> None:
    """Write the page, whole or not at all."""
    name, dates = escape(found.folder.resolve().name), found.imagery.dates
    rows = "".join(f"<tr><td>{d}<td>{share:.0%}<td>{1 - share:.0%}" for d, share in zip(dates, found.seen, strict=True))
    said = "".join(_list(title, texts) for title, texts in found.said.items())
    pictures = "".join(f'<img src="data:image/png;base64,{_png(figure)}">' for figure in figures(found))
    page = f"""<!doctype html><meta charset="utf-8"><title>{name}</title><style>{STYLE}</style>
<h1>{name}</h1><p>{escape(str(found.imagery.grid))}; {len(dates)} dates
{said}{pictures}{_labels(found) if found.reader else ""}
<h2>Dates</h2><p>From {SAMPLES**2} samples of {SIDE} px.<table><tr><th>date<th>seen<th>cloud or no data{rows}</table>"""
    write_text(file, page)


def _list(title: str, texts: list[str]) -> str:
    return f"<h2>{title}</h2><ul>" + ("".join(f"<li>{escape(text)}" for text in texts) or "<li>none") + "</ul>"


def figures(found: Findings) -> list[Figure]:
    """Thumbnails of the dates; where there are labels, these over one date, and the split."""
    reader = found.reader
    return [_thumbnails(found), *([_over(reader, found), _split(reader, found.fold)] if reader else [])]


def _labels(found: Findings) -> str:
    """HTML: pixels and windows per class, and the image labels of the first windows."""
    splits = "".join(f"<th>windows, {split} ({found.counts[split]})" for split in SPLITS)
    classes = "".join(
        f"<tr><td>{escape(name)}<td>{count:,}<td>" + "<td>".join(str(found.windows[split][name]) for split in SPLITS)
        for name, count in found.pixels.items()
    )
    folds = sorted(found.fold_counts)
    per_fold = "".join(
        f"<tr><td>{escape(name)}<td>" + "<td>".join(_held(found, fold, name) for fold in folds)
        for name in found.reader.legend.class_names
    ) if found.reader else ""  # fmt: skip
    heads = "".join(f"<th>fold {fold} ({found.fold_counts[fold]} windows)" for fold in folds)
    shown = "".join(f"<tr><td>{name}<td>{split}<td>{escape(text)}" for name, split, text in found.examples)
    return f"""<h2>Classes</h2><table><tr><th>class<th>pixels{splits}{classes}</table>
<h2>What each fold holds</h2><p>Windows with the class{_whole(found)}.
<table><tr><th>class{heads}{per_fold}</table>
<h2>Windows and their image labels</h2><p>The first {len(found.examples)} of {found.counts.total()}.
<table><tr><th>window<th>split<th>classes{shown}</table>"""


def _held(found: Findings, fold: int, name: str) -> str:
    """Windows of a fold with a class, and where fields are kept whole how many of them."""
    windows, reader = str(found.folds[fold][name]), found.reader
    if reader is None or reader.fields is None or reader.labels.mapped is None:
        return windows
    number = reader.legend.class_names.index(name) + 1
    fields = int(((reader.fields.folds == fold) & (reader.labels.mapped.numbers == number)).sum())
    return f"{windows} ({fields})"


def _whole(found: Findings) -> str:
    return " (and whole fields)" if found.reader is not None and found.reader.fields is not None else ""


def _thumbnails(found: Findings) -> Figure:
    imagery, grid = found.imagery, found.imagery.grid
    rows, columns = _around(grid.height // 2, grid.height), _around(grid.width // 2, grid.width)
    chosen = np.unique(np.linspace(0, len(imagery.dates) - 1, THUMBNAILS).round().astype(int))
    lines = -(-len(chosen) // ACROSS)
    figure = Figure(figsize=(12, 2.2 * lines), layout="constrained")
    axes = np.atleast_1d(figure.subplots(lines, ACROSS)).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, date in zip(axes, chosen, strict=False):
        axis.imshow(_true_colour(imagery.read_date(int(date), rows, columns), found.true_colour))
        axis.set_title(f"{imagery.dates[date]}  {found.seen[date]:.0%} seen", fontsize=8)
    return figure


def _over(reader: SceneReader, found: Findings) -> Figure:
    """The labels in the middle of the labelled land, over the clearest date."""
    imagery, grid, piece = found.imagery, found.imagery.grid, reader.pieces[len(reader.pieces) // 2]
    rows, columns = _around(piece.rows.start, grid.height), _around(piece.columns.start, grid.width)
    best, place = int(np.argmax(found.seen)), grid.cut(rows, columns)
    left, bottom, right, top = place.bounds
    extent = (left, right, bottom, top)
    figure = Figure(figsize=(9, 7), layout="constrained")
    axis = figure.subplots()
    axis.imshow(_true_colour(imagery.read_date(best, rows, columns), found.true_colour), extent=extent)
    colours = np.zeros((256, 4))
    for number, crop in enumerate(reader.legend.classes, 1):
        colours[number] = (*to_rgba(crop.colour)[:3], 0.55)
    labels = reader.labels.ids(place)
    axis.imshow(labels, cmap=ListedColormap(colours), vmin=0, vmax=255, interpolation="nearest", extent=extent)
    if reader.labels.areas:
        _outlines(axis, reader.labels.areas.tree.geometries)
    axis.set(title=f"labels over {imagery.dates[best]}", xticks=[], yticks=[], xlim=(left, right), ylim=(bottom, top))
    there = [crop for number, crop in enumerate(reader.legend.classes, 1) if (labels == number).any()]
    if there:
        swatches = [Swatch(color=crop.colour, label=crop.name) for crop in there]
        axis.legend(handles=swatches, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
    return figure


def _outlines(axis: Axes, shapes: NDArray) -> None:
    for line in shapely.get_parts(shapely.boundary(shapes)):
        axis.plot(*shapely.get_coordinates(line).T, color="yellow", linewidth=1)


def _split(reader: SceneReader, fold: int) -> Figure:
    """Which land is in which split."""
    grid = reader.imagery.grid
    figure = Figure(figsize=(6, 6), layout="constrained")
    axis = figure.subplots()
    for piece in reader.pieces:
        size = piece.columns.stop - piece.columns.start, piece.rows.stop - piece.rows.start
        axis.add_patch(
            Rectangle((piece.columns.start, piece.rows.start), *size, color=COLOURS[split_of(piece.fold, fold)])
        )
    axis.set(title="labelled land by split", xlim=(0, grid.width), ylim=(grid.height, 0), xlabel="px", aspect="equal")
    axis.legend(handles=[Swatch(color=colour, label=name) for name, colour in COLOURS.items()], loc="lower right")
    return figure


def _around(middle: int, length: int) -> slice:
    """Up to MOST pixels of a side, about `middle`."""
    size = min(length, MOST)
    first = min(max(0, middle - size // 2), length - size)
    return slice(first, first + size)


def _true_colour(picture: NDArray[np.int16], bands: tuple[int, int, int]) -> NDArray[np.float32]:
    """c h w -> h w 3, 0..1; grey where nothing was seen."""
    shown = picture[list(bands)].transpose(1, 2, 0)
    return np.where(shown == NODATA, 0.6, np.clip(shown / BRIGHT, 0, 1)).astype(np.float32)


def _png(figure: Figure) -> str:
    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=90)
    return base64.b64encode(held.getvalue()).decode()
