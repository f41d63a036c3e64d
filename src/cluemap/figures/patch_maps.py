"""Maps of a whole patch, put together from its windows."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from cluemap.data.patches import VOID, Legend
from cluemap.figures import style
from cluemap.figures.images import Picture, label_picture
from cluemap.figures.window_panel import agreement

SIDE, GAP = 3.1, 0.2  # inches: width of a map, space between two


@style.house_style()
def mosaic(
    maps: Mapping[str, NDArray[np.uint8]],
    legend: Legend,
    path: Path | str,
    picture: Picture | None = None,
    window: int | None = None,
    pixel: float = 10.0,
    title: str = "",
) -> Path:
    """Whole-patch maps side by side: `maps` is {"truth": H W, "crop map": H W, ...} (`assemble` puts windows together).

    With truth among them, every other map also shows where it is wrong. `picture` (H W 3) goes first; `window` draws
    the borders of the windows (pixels a side); `pixel` is metres a pixel, for the scale bar.
    """
    truth = maps.get("truth")
    panels: dict[str, Callable[[Axes], None]] = {}
    if picture is not None:
        panels["true colour"] = partial(style.show, picture=picture)
    for name, labels in maps.items():
        panels[name] = partial(_draw_map, labels=labels, truth=truth, legend=legend)
    for name, labels in maps.items():
        if truth is not None and name != "truth":
            panels[f"errors of the {name}"] = partial(_draw_errors, labels=labels, truth=truth, legend=legend)
    named = style.used_labels(list(maps.values()))
    rows, columns = next(iter(maps.values())).shape
    tall, top = SIDE * rows / columns, 0.36 + 0.34 * bool(title)
    width = GAP + len(panels) * (SIDE + GAP)
    figure = Figure(figsize=(width, top + tall + 0.4 + style.legend_height(width, named, legend)))
    style.write(figure, GAP, 0.12, title, fontsize=13, weight="bold")
    for number, (name, draw) in enumerate(panels.items()):
        axes = style.tile(figure, GAP + number * (SIDE + GAP), top, SIDE, tall)
        axes.set_title(name, fontsize=11)
        draw(axes)
        _draw_grid(axes, rows, columns, window)
        if number == 0:
            _draw_scale_bar(axes, columns, pixel)
    style.draw_legend(figure, named, legend)
    return style.save(figure, path)


def _draw_map(axes: Axes, labels: NDArray[np.uint8], truth: NDArray[np.uint8] | None, legend: Legend) -> None:
    style.show_labels(axes, labels, legend)
    axes.set_title(agreement(labels, truth), loc="right", fontsize=9.5, weight="normal", color=style.FAINT)


def _draw_errors(axes: Axes, labels: NDArray[np.uint8], truth: NDArray[np.uint8], legend: Legend) -> None:
    """Wrong pixels in vermilion over the faded truth."""
    faded = 1 - (1 - label_picture(truth, legend)) * 0.25
    faded[(labels != truth) & (truth != VOID)] = to_rgb(style.VERMILION)
    style.show(axes, faded)
    style.hatch(axes, truth == VOID)


def _draw_grid(axes: Axes, rows: int, columns: int, window: int | None) -> None:
    if window:
        thin: dict[str, Any] = {"colors": "white", "linewidth": 0.4, "alpha": 0.6}
        axes.vlines(np.arange(window, columns, window) - 0.5, -0.5, rows - 0.5, **thin)
        axes.hlines(np.arange(window, rows, window) - 0.5, -0.5, columns - 0.5, **thin)


def _draw_scale_bar(axes: Axes, columns: int, pixel: float) -> None:
    """A bar of a round number of metres, up to a third of the width, under the map."""
    rough = columns * pixel / 3
    unit = 10 ** np.floor(np.log10(rough))
    metres = unit * max(step for step in (1, 2, 5) if step * unit <= rough)
    length = metres / pixel / columns
    axes.add_patch(Rectangle((0, -0.045), length, 0.012, transform=axes.transAxes, clip_on=False, color=style.INK))
    axes.text(length + 0.02, -0.04, f"{metres:g} m", transform=axes.transAxes, va="center", fontsize=9)
