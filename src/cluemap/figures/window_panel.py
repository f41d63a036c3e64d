"""The panel of validation windows: what was seen, what was made of it, and the clue CAM of every class present."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from cluemap.data.patches import VOID, Legend
from cluemap.errors import DataError
from cluemap.figures import style
from cluemap.figures.images import class_colour, class_name, clearest_date, true_colour

TILE, GAP, WORDS = 1.45, 0.14, 0.42  # inches: a window's side, space between two, room for words above each
LEFT, TOP = 0.3, 0.72  # inches: margins of the sheet; the top one holds its title
CAM_COLUMNS = 4  # clue CAMs side by side; a window with more classes uses a second line
CAM_COLOURS = "magma"


@dataclass(frozen=True)
class WindowView:
    """One window and what was made of it; what is None is left out."""

    name: str
    images: NDArray[np.int16]  # t c h w
    days: NDArray[np.int16]  # t
    present: tuple[int, ...]  # ids 1..K of the image label
    valid: NDArray[np.bool_] | None = None  # t
    truth: NDArray[np.uint8] | None = None  # h w
    cams: NDArray[np.floating] | None = None  # k h' w', 0..1, all K classes, on pixels or grid positions
    pseudo_mask: NDArray[np.uint8] | None = None  # h w
    refined_mask: NDArray[np.uint8] | None = None  # h w, where the masks were refined
    crop_map: NDArray[np.uint8] | None = None  # h w, the segmenter's map

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of pixels."""
        return self.images.shape[2], self.images.shape[3]

    @property
    def maps(self) -> dict[str, NDArray[np.uint8]]:
        """Title -> label map, those that there are."""
        maps = {
            "truth": self.truth,
            "pseudo mask": self.pseudo_mask,
            "refined mask": self.refined_mask,
            "crop map": self.crop_map,
        }
        return {title: labels for title, labels in maps.items() if labels is not None}


def labels_to_name(views: Sequence[WindowView]) -> list[int]:
    """The ids that the views' maps and image labels hold: what the shared legend has to explain.

    Raises:
        DataError: there is no view.
    """
    if not views:
        raise DataError("no window to draw: the split is empty, or `figures.windows` in params.yaml is 0")
    maps = [labels for view in views for labels in view.maps.values()]
    return sorted({*style.used_labels(maps), *(label for view in views for label in view.present)})


def agreement(labels: NDArray[np.integer], truth: NDArray[np.integer] | None) -> str:
    """h w, h w -> "87 % right", the share of the labelled pixels; nothing to say without truth."""
    if truth is None or labels is truth or not (truth != VOID).any():
        return ""
    return f"{np.mean(labels[truth != VOID] == truth[truth != VOID]):.0%} right".replace("%", " %")


@style.house_style()
def window_panel(
    views: Sequence[WindowView],
    legend: Legend,
    path: Path | str,
    threshold: float | None = None,
    title: str = "Validation windows",
) -> Path:
    """One row per window: true colour of its clearest date, truth, masks, crop map, clue CAM per present class.

    `threshold` (0..1) is drawn as an outline on the clue CAMs: inside it the class can win.
    """
    named = labels_to_name(views)
    titles = list(dict.fromkeys(title for view in views for title in view.maps))
    lines = [max(1, -(-_cam_count(view) // CAM_COLUMNS)) for view in views]
    across = min(CAM_COLUMNS, max(_cam_count(view) for view in views))
    width = max(LEFT + (1 + len(titles) + across) * (TILE + GAP) + 0.2 * bool(across) + 0.1, 5.0)
    bar = 0.55 if across else 0.0
    height = TOP + sum(lines) * (TILE + WORDS) + bar + style.legend_height(width, named, legend)
    figure = Figure(figsize=(width, height))
    style.write(figure, LEFT, 0.12, title, fontsize=13, weight="bold")
    style.write(figure, LEFT, 0.38, _explanation(views, threshold), fontsize=9, color=style.FAINT)
    top = TOP
    for view, count in zip(views, lines, strict=True):
        _draw_row(figure, view, legend, titles, top + WORDS - 0.06, threshold)
        top += count * (TILE + WORDS)
    if across:
        _draw_scale(figure, LEFT + (1 + len(titles)) * (TILE + GAP) + 0.2, top + 0.12)
    style.draw_legend(figure, named, legend)
    return style.save(figure, path)


def _explanation(views: Sequence[WindowView], threshold: float | None) -> str:
    rows, columns = views[0].size
    outline = "" if threshold is None else f"; outlined where the score is over the threshold {threshold:.2f}"
    return f"{rows} x {columns} pixels each. Right: clue CAM of each class in the image label{outline}."


def _cam_count(view: WindowView) -> int:
    return 0 if view.cams is None else len(view.present)


def _draw_row(
    figure: Figure, view: WindowView, legend: Legend, titles: list[str], top: float, threshold: float | None
) -> None:
    clearest = clearest_date(view.images, legend, view.valid)
    axes = style.tile(figure, LEFT, top, TILE)
    style.show(axes, true_colour(view.images[clearest], legend))
    axes.set_ylabel(view.name, fontsize=9, labelpad=4)
    _words(axes, "true colour", f"{style.day_name(view.days[clearest])}, clearest of {len(view.days)}")
    for column, title in enumerate(titles, start=1):
        if title in view.maps:
            axes = style.tile(figure, LEFT + column * (TILE + GAP), top, TILE)
            style.show_labels(axes, view.maps[title], legend)
            _words(axes, title, agreement(view.maps[title], view.truth))
    if view.cams is None:
        return
    left = LEFT + (1 + len(titles)) * (TILE + GAP) + 0.2
    for number, label in enumerate(view.present):
        line, column = divmod(number, CAM_COLUMNS)
        axes = style.tile(figure, left + column * (TILE + GAP), top + line * (TILE + WORDS), TILE)
        _draw_cam(axes, view.cams[label - 1], view.size, label, legend, threshold)


def _words(axes: Axes, title: str, note: str) -> None:
    axes.annotate(title, (0, 1), (0, 14), "axes fraction", "offset points", fontsize=9, weight="bold")
    axes.annotate(note, (0, 1), (0, 4), "axes fraction", "offset points", fontsize=8, color=style.FAINT)


def _draw_cam(
    axes: Axes, cam: NDArray[np.floating], size: tuple[int, int], label: int, legend: Legend, threshold: float | None
) -> None:
    """One class's clue CAM (h' w') stretched over a window of `size` pixels, under a band in the class's colour."""
    rows, columns = size
    style.show(axes, cam, size, cmap=CAM_COLOURS, vmin=0, vmax=1)
    if threshold is not None and cam.min() < threshold < cam.max():
        down, right = cam.shape
        x = (np.arange(right) + 0.5) * columns / right - 0.5
        y = (np.arange(down) + 0.5) * rows / down - 0.5
        axes.contour(x, y, cam, levels=[threshold], colors="white", linewidths=1.0)
    band = Rectangle(
        (0, 1.0), 1, 0.05, transform=axes.transAxes, clip_on=False, linewidth=0.5, edgecolor=style.FAINT,
        facecolor=class_colour(legend, label),
    )  # fmt: skip
    axes.add_patch(band)
    name = "\n".join(textwrap.wrap(class_name(legend, label), 19)[:2])
    axes.annotate(name, (0, 1.05), (0, 2.5), "axes fraction", "offset points", fontsize=8.5, linespacing=0.95)


def _draw_scale(figure: Figure, left: float, top: float) -> None:
    across, down = figure.get_size_inches()
    axes = figure.add_axes((left / across, 1 - (top + 0.1) / down, TILE / across, 0.1 / down))
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), CAM_COLOURS), cax=axes, orientation="horizontal")
    bar.set_ticks([0, 0.5, 1])
    axes.tick_params(labelsize=8, length=2)
    axes.annotate("clue CAM score", (0, 0.5), (-8, 0), "axes fraction", "offset points", fontsize=8.5, va="center",
                  ha="right")  # fmt: skip
