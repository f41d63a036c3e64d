"""Which dates matter for which crop: temporal weights over the year."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cluemap.data.patches import Legend
from cluemap.errors import DataError
from cluemap.figures import style
from cluemap.figures.images import class_colour, class_name
from cluemap.figures.time_courses import BIN_DAYS

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
MONTH_STARTS = np.cumsum([1, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30])  # day of year
NDVI_COLOURS = "YlGn"
ROW, RIDGE, STRIP = 0.62, 0.44, 0.11  # inches: a class, of it the weights, and of it the NDVI strip


@style.house_style()
def temporal_weights(
    weights: NDArray[np.floating],
    legend: Legend,
    path: Path | str,
    ndvi: NDArray[np.floating] | None = None,
    bin_days: int = BIN_DAYS,
    title: str = "Which dates matter for which crop",
) -> Path:
    """One ridge per class over the year: k y, mean weight in each part of `bin_days` days, 1 = an even share of dates.

    `even_share_weights` makes it. NaN = no date; a class without any is left out. `ndvi` (k y, 0..1) is the crop's
    own greenness, drawn as a strip beneath its ridge: it shows whether the model looks at green-up, peak or harvest.
    """
    crops = len(legend.classes)
    edges = np.minimum(np.arange(1, 367 + bin_days, bin_days), 367)  # y + 1, day of year
    if weights.shape != (crops, len(edges) - 1):
        wanted = f"{crops} classes and {len(edges) - 1} parts of the year"
        raise DataError(f"weights have shape {weights.shape}, not {wanted}: not its data set, or another `bin_days`")
    kept = np.flatnonzero(~np.isnan(weights).all(axis=1))
    if not kept.size:
        raise DataError("no class has a temporal weight: no window holds a class, or every date is missing")
    ceiling = max(float(np.nanmax(weights)) * 1.05, 1.5)
    height = 1.15 + len(kept) * ROW
    figure = Figure(figsize=(9, height))
    style.write(figure, 0.15, 0.12, title, fontsize=13, weight="bold")
    note = "Temporal weight of a date; dotted line: an even share of all dates"
    style.write(figure, 0.15, 0.40, note + ("; strip: greenness (NDVI)" if ndvi is not None else ""), fontsize=9,
                color=style.FAINT)  # fmt: skip
    for row, crop in enumerate(kept):
        top = 0.8 + row * ROW
        _draw_ridge(figure, top, weights[crop], edges, ceiling, legend, int(crop) + 1)
        if ndvi is not None:
            _draw_strip(figure, top + RIDGE + 0.01, ndvi[crop], edges)
    _draw_months(figure, 0.8 + len(kept) * ROW)
    if ndvi is not None:
        _draw_scale(figure)
    return style.save(figure, path)


def _year_axes(figure: Figure, top: float, height: float) -> Axes:
    across, down = figure.get_size_inches()
    axes = figure.add_axes((2.0 / across, 1 - (top + height) / down, (across - 3.0) / across, height / down))
    axes.set(xlim=(1, 367), xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.grid(False)
    return axes


def _draw_ridge(
    figure: Figure, top: float, weights: NDArray, edges: NDArray, ceiling: float, legend: Legend, label: int
) -> None:
    axes = _year_axes(figure, top, RIDGE)
    axes.vlines(MONTH_STARTS, 0, ceiling, color="#e8e8e8", linewidth=0.8, zorder=0)
    axes.stairs(np.nan_to_num(weights), edges, fill=True, color=class_colour(legend, label), zorder=2)
    axes.stairs(np.nan_to_num(weights), edges, color=style.INK, linewidth=0.8, zorder=3)
    axes.axhline(1, color=style.INK, linewidth=0.8, linestyle=(0, (1, 2)), zorder=4)
    axes.axhline(0, color=style.FAINT, linewidth=0.8, zorder=4)
    axes.set_ylim(0, ceiling)
    axes.text(-0.015, 0.05, class_name(legend, label), transform=axes.transAxes, ha="right", fontsize=9.5)
    part = int(np.nanargmax(weights))
    peak = style.day_name((edges[part] + edges[part + 1]) // 2)
    note = f"{weights[part]:.1f}x, {peak}"
    axes.text(1.012, 0.05, note, transform=axes.transAxes, fontsize=7.5, color=style.FAINT)


def _draw_strip(figure: Figure, top: float, ndvi: NDArray, edges: NDArray) -> None:
    axes = _year_axes(figure, top, STRIP)
    picture = np.ma.masked_invalid(ndvi)[None]
    axes.pcolormesh(edges, [0, 1], picture, cmap=NDVI_COLOURS, vmin=0.1, vmax=0.9)


def _draw_months(figure: Figure, top: float) -> None:
    axes = _year_axes(figure, top, 0.2)
    middles = (MONTH_STARTS + np.append(MONTH_STARTS[1:], 366)) / 2
    for month, middle in zip(MONTHS, middles, strict=True):
        axes.text(middle, 0.9, month, ha="center", va="top", fontsize=9.5)


def _draw_scale(figure: Figure) -> None:
    across, down = figure.get_size_inches()
    axes = figure.add_axes(((across - 2.5) / across, 1 - 0.3 / down, 1.5 / across, 0.1 / down))
    bar = figure.colorbar(ScalarMappable(Normalize(0.1, 0.9), NDVI_COLOURS), cax=axes, orientation="horizontal")
    bar.set_ticks([0.1, 0.5, 0.9])
    axes.tick_params(labelsize=8, length=2)
    axes.annotate("NDVI", (1, 0.5), (6, 0), "axes fraction", "offset points", fontsize=8.5, va="center")
