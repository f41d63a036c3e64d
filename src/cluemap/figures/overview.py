"""The README's picture: from cheap labels to a map."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from cluemap.data.patches import Legend
from cluemap.figures import style
from cluemap.figures.images import (
    cam_picture,
    class_colour,
    class_name,
    clearest_date,
    true_colour,
)
from cluemap.figures.window_panel import WindowView, agreement, labels_to_name

TILE, GAP, NOTE = 1.62, 0.34, 0.26  # inches: a window's side, space between columns (an arrow), words under a row
LEFT, TOP = 0.3, 0.72
COLUMNS = (
    ("satellite series", "what the model reads"),
    ("image label", "what grows here, not where"),
    ("clue CAM", "where the clues point"),
    ("pseudo mask", "best class under the label"),
    ("crop map", "segmenter taught by masks"),
    ("truth", "only used to check"),
)


@style.house_style()
def overview(views: Sequence[WindowView], legend: Legend, path: Path | str) -> Path:
    """One row per window (three look best): series | image label | clue CAM | pseudo mask | crop map | truth."""
    named = labels_to_name(views)
    width = LEFT + len(COLUMNS) * (TILE + GAP) - GAP + 0.2
    height = TOP + len(views) * (TILE + NOTE) + 0.1 + style.legend_height(width, named, legend, 11)
    figure = Figure(figsize=(width, height))
    for column, (title, note) in enumerate(COLUMNS):
        left = LEFT + column * (TILE + GAP)
        style.write(figure, left, 0.14, title, fontsize=12.5, weight="bold")
        style.write(figure, left, 0.40, note, fontsize=9, color=style.FAINT)
    for row, view in enumerate(views):
        _draw_row(figure, view, legend, TOP + row * (TILE + NOTE))
    style.draw_legend(figure, named, legend, 11)
    return style.save(figure, path)


def _draw_row(figure: Figure, view: WindowView, legend: Legend, top: float) -> None:
    def place(column: int, note: str) -> Axes:
        axes = style.tile(figure, LEFT + column * (TILE + GAP), top, TILE)
        axes.annotate(note, (0, 0), (0, -4), "axes fraction", "offset points", fontsize=9, va="top", color=style.FAINT)
        if column < 4:
            arrow = "\N{BLACK RIGHT-POINTING TRIANGLE}"
            axes.annotate(arrow, (1, 0.5), (12, 0), "axes fraction", "offset points", va="center", ha="center",
                          color=style.HATCH)  # fmt: skip
        return axes

    clearest = clearest_date(view.images, legend, view.valid)
    note = f"{style.day_name(view.days[clearest])}, one of {len(view.days)} dates"
    _draw_series(place(0, note), view, clearest, legend)
    _draw_chips(place(1, ""), view.present, legend)
    if view.cams is not None and view.present:
        chosen = {label: view.cams[label - 1] for label in view.present}
        style.show(place(2, ""), cam_picture(chosen, legend))
    final = view.pseudo_mask if view.refined_mask is None else view.refined_mask
    for column, labels in ((3, final), (4, view.crop_map), (5, view.truth)):
        if labels is not None:
            style.show_labels(place(column, agreement(labels, view.truth)), labels, legend)


def _draw_series(axes: Axes, view: WindowView, clearest: int, legend: Legend, behind: int = 3) -> None:
    """The clearest date in front of some others, as a stack of sheets."""
    axes.axis("off")
    others = np.linspace(0, len(view.images) - 1, behind).round().astype(int)[: len(view.images) - 1]
    shift = 0.055
    for depth, date in zip(range(len(others), -1, -1), [*others, clearest], strict=True):
        side = 1 - shift * len(others)
        sheet = axes.inset_axes((shift * depth, shift * depth, side, side), zorder=5 - depth)
        style.show(sheet, true_colour(view.images[date], legend), view.size)
        sheet.set(xticks=[], yticks=[])
        sheet.grid(False)
        for spine in sheet.spines.values():
            spine.set(visible=True, color="white", linewidth=1.0)


def _draw_chips(axes: Axes, present: Sequence[int], legend: Legend) -> None:
    """The names of the classes as chips in their colours, one under another."""
    axes.set(xlim=(0, 1), ylim=(1, 0))
    for spine in axes.spines.values():
        spine.set_visible(False)
    high = min(0.17, 0.98 / max(len(present), 1) - 0.03)
    start = 0.5 - (high + 0.03) * len(present) / 2
    for number, label in enumerate(present):
        top = start + number * (high + 0.03)
        colour = class_colour(legend, label)
        axes.add_patch(
            FancyBboxPatch((0.04, top), 0.92, high, boxstyle=f"round,pad=0,rounding_size={high / 2}",
                           facecolor=colour, edgecolor=style.FAINT, linewidth=0.6)
        )  # fmt: skip
        name = textwrap.shorten(class_name(legend, label), 22, placeholder="\N{HORIZONTAL ELLIPSIS}")
        size = min(9.5, high * 60, 9.5 * 17 / max(len(name), 17))
        axes.text(0.5, top + high / 2, name, ha="center", va="center_baseline", fontsize=size, color=_readable(colour))


def _readable(colour: str) -> str:
    """Black or white, whichever is easier to read on the colour (relative luminance of WCAG 2)."""
    linear = np.array(to_rgb(colour)) ** 2.2
    return "white" if linear @ (0.2126, 0.7152, 0.0722) < 0.18 else "black"
