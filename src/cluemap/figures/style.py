"""How every picture looks and is written: one style, sizes in inches, the same bytes from the same arrays."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path as Outline
from numpy.typing import NDArray

from cluemap.data.patches import VOID, Legend
from cluemap.figures.images import class_colour, class_name, label_picture
from cluemap.files import atomic

# Okabe and Ito's colours, told apart with every kind of colour vision; for what is ours (classes have their own).
BLUE, ORANGE, GREEN, VERMILION = "#0072b2", "#e69f00", "#009e73", "#d55e00"
SERIES = (BLUE, ORANGE, GREEN, VERMILION, "#cc79a7", "#56b4e9", "#000000", "#f0e442")
INK, FAINT, HATCH = "#222222", "#6b6b6b", "#9a9a9a"
DOTS_PER_INCH = 150
STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same letters everywhere
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "hatch.linewidth": 0.7,
    "lines.linewidth": 2.0,
    "image.interpolation": "nearest",
}


@contextmanager
def house_style() -> Iterator[None]:
    """The project's style and nothing of the user's own matplotlib settings; put back afterwards.

    Also a decorator. Some settings count when a thing is made, some when it is saved: both happen inside.
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def save(figure: Figure, path: Path | str) -> Path:
    """Write a PNG, whole or not at all, without the date and version that would make equal pictures differ."""
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None}, facecolor="white")
    return Path(path)


def tile(figure: Figure, left: float, top: float, width: float, height: float | None = None) -> Axes:
    """Axes at a place in inches from the figure's upper-left corner, framed, without ticks or grid."""
    height = width if height is None else height
    across, down = figure.get_size_inches()
    axes = figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    for side in ("left", "right", "top", "bottom"):
        axes.spines[side].set(visible=True, color=FAINT, linewidth=0.8)
    return axes


def write(figure: Figure, left: float, top: float, text: str, **kind: Any) -> None:
    """Text with its upper-left corner at a place in inches from the figure's upper-left corner."""
    across, down = figure.get_size_inches()
    figure.text(left / across, 1 - top / down, text, **{"va": "top", "ha": "left", **kind})


def show(axes: Axes, picture: NDArray, size: tuple[int, int] | None = None, **kind: Any) -> None:
    """Put a picture on a tile; `size` (rows, columns) stretches it over that many pixels (a map of grid positions)."""
    rows, columns = size or picture.shape[:2]
    axes.imshow(picture, extent=(-0.5, columns - 0.5, rows - 0.5, -0.5), aspect="auto", **kind)


def show_labels(axes: Axes, labels: NDArray[np.integer], legend: Legend) -> None:
    """A label map in the data set's colours, void hatched so that it is never taken for a class."""
    show(axes, label_picture(labels, legend))
    hatch(axes, labels == VOID)


def hatch(axes: Axes, mask: NDArray[np.bool_]) -> None:
    """Hatch the true pixels."""
    if mask.any():
        axes.add_patch(PathPatch(_outline(mask), facecolor="none", edgecolor=HATCH, hatch="//////", linewidth=0))


def _outline(mask: NDArray[np.bool_]) -> Outline:
    """h w bool -> one path of rectangles, one for each run of true pixels in a row."""
    corners = []
    for row, pixels in enumerate(mask):
        edges = np.flatnonzero(np.diff(np.pad(pixels.astype(int), 1)))
        for start, end in edges.reshape(-1, 2) - 0.5:
            corners += [(start, row - 0.5), (end, row - 0.5), (end, row + 0.5), (start, row + 0.5), (start, row - 0.5)]
    codes = [Outline.MOVETO, *[Outline.LINETO] * 3, Outline.CLOSEPOLY] * (len(corners) // 5)
    return Outline(np.array(corners), codes)


def used_labels(maps: Sequence[NDArray[np.integer] | None]) -> list[int]:
    """The ids that occur in any of the maps: background, then crops, then void."""
    return sorted({int(label) for labels in maps if labels is not None for label in np.unique(labels)})


def swatches(labels: Sequence[int], legend: Legend) -> list[Patch]:
    """One legend entry for each label id."""
    return [
        Patch(
            facecolor=class_colour(legend, label),
            edgecolor=HATCH if label == VOID else FAINT,
            hatch="//////" if label == VOID else None,
            linewidth=0.6,
            label=class_name(legend, label),
        )
        for label in labels
    ]


def legend_columns(width: float, labels: Sequence[int], legend: Legend, size: float = 10.0) -> int:
    """How many legend entries fit side by side in `width` inches, at a letter size in points."""
    longest = max((len(class_name(legend, label)) for label in labels), default=1)
    return max(1, min(len(labels), int(width / ((longest * 0.62 + 4.5) * size / 72))))


def draw_legend(figure: Figure, labels: Sequence[int], legend: Legend, size: float = 10.0) -> None:
    """The map legend along the figure's lower edge; `legend_height` says how much room it takes."""
    columns = legend_columns(figure.get_size_inches()[0], labels, legend, size)
    figure.legend(
        handles=swatches(labels, legend), loc="lower center", ncols=columns, fontsize=size, handlelength=1.5,
        handleheight=1.1, columnspacing=1.6,
    )  # fmt: skip


def legend_height(width: float, labels: Sequence[int], legend: Legend, size: float = 10.0) -> float:
    """Inches that `draw_legend` takes in a figure of this width."""
    rows = -(-len(labels) // legend_columns(width, labels, legend, size))
    return 0.2 + rows * 1.62 * size / 72


def day_name(day: int) -> str:
    """Day of year -> "13 Apr"."""
    moment = date(2019, 1, 1) + timedelta(days=min(int(day), 365) - 1)
    return f"{moment.day} {moment:%b}"
