"""Scores class by class: the confusion matrix and the bars of IoU."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from cluemap.data.patches import Legend
from cluemap.errors import DataError
from cluemap.figures import style
from cluemap.figures.images import class_colour, class_name


def scored_labels(legend: Legend) -> list[int]:
    """The ids that scores are given for, in the order of a confusion's rows: background where there is one, 1..K."""
    return list(range(0 if legend.background else 1, len(legend.classes) + 1))


@style.house_style()
def confusion_matrix(
    counts: NDArray[np.integer], legend: Legend, path: Path | str, title: str = "Confusion matrix, test windows",
    unit: str = "pixels",
) -> Path:  # fmt: skip
    """Counts of pixels, or another `unit`, (true class, predicted class) -> matrix in % of each true class, counts on
    the margins.

    A further column (METHOD section 9: no prediction) is drawn only where it holds something. Classes without one
    true or predicted pixel are left out and named below.

    Raises:
        DataError: another number of rows than the legend has classes.
    """
    labels = scored_labels(legend)
    counts = np.asarray(counts)
    if counts.shape[0] != len(labels):
        raise DataError(f"confusion of {counts.shape[0]} classes, but the legend has {len(labels)}: not its data set")
    square = counts[:, : len(labels)]
    kept = [place for place, _ in enumerate(labels) if counts[place].sum() + square[:, place].sum() > 0]
    unknown = counts[kept, len(labels) :].sum(axis=1, keepdims=True)
    shown = np.hstack([square[np.ix_(kept, kept)], unknown] if unknown.any() else [square[np.ix_(kept, kept)]])
    names = [class_name(legend, labels[place]) for place in kept]
    absent = [class_name(legend, label) for place, label in enumerate(labels) if place not in kept]
    side = 0.47 * len(kept) + 0.2
    beneath = 0.9 + 0.055 * max(len(name) for name in names)  # inches: slanted names, axis title, absent classes
    figure = Figure(figsize=(max(side + 3.2, 6.5), 1.0 + side + beneath))
    axes = style.tile(figure, 2.1, 1.0, 0.47 * shown.shape[1], 0.47 * len(kept))
    style.write(figure, 0.15, 0.12, title, fontsize=13, weight="bold")
    note = f"Rows add up to 100 % of a true class's {unit}; the diagonal is recall."
    style.write(figure, 0.15, 0.40, note, fontsize=9, color=style.FAINT)
    _draw_cells(axes, shown)
    _name_sides(axes, shown, names, [class_colour(legend, labels[place]) for place in kept])
    if absent:
        wrapped = "No true or predicted pixel: " + ", ".join(absent)
        figure.text(0.15 / figure.get_figwidth(), 0.01, wrapped, fontsize=8.5, color=style.FAINT, wrap=True)
    return style.save(figure, path)


def _draw_cells(axes: Axes, counts: NDArray) -> None:
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1) * 100
    style.show(axes, shares, cmap="Blues", vmin=0, vmax=100)
    for row, column in np.argwhere(shares >= 0.5):
        dark, bold = shares[row, column] > 55, row == column
        axes.text(column, row, f"{shares[row, column]:.0f}", ha="center", va="center", fontsize=9,
                  color="white" if dark else style.INK, weight="bold" if bold else "normal")  # fmt: skip


def _name_sides(axes: Axes, counts: NDArray, names: Sequence[str], colours: Sequence[str]) -> None:
    rows, columns = counts.shape
    axes.set_yticks(range(rows), names, fontsize=9)
    axes.set_xticks(range(columns), [*names, "no prediction"][:columns], fontsize=9, rotation=45, ha="right",
                    rotation_mode="anchor")  # fmt: skip
    axes.tick_params(length=0, pad=15)
    for place, colour in enumerate(colours):
        chip: dict[str, Any] = {"facecolor": colour, "edgecolor": style.FAINT, "linewidth": 0.5, "clip_on": False}
        axes.add_patch(Rectangle((-0.82, place - 0.36), 0.2, 0.72, **chip))
        axes.add_patch(Rectangle((place - 0.36, rows - 0.38), 0.72, 0.2, **chip))
    spot: dict[str, Any] = {"fontsize": 8.5, "color": style.FAINT}
    for row, total in enumerate(counts.sum(axis=1)):
        axes.text(columns - 0.35, row, short_count(total), va="center", **spot)
    for column, total in enumerate(counts.sum(axis=0)):
        axes.text(column, -0.65, short_count(total), ha="center", va="bottom", **spot)
    axes.text(columns - 0.35, -0.65, "pixels", va="bottom", **spot)
    axes.set_xlabel("predicted", fontsize=10.5, weight="bold")
    axes.set_ylabel("true", fontsize=10.5, weight="bold")


def short_count(count: float) -> str:
    """12345 -> "12.3 k", three digits at most."""
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= unit:
            return f"{count / unit:.3g}{name}" if count < 999.5 * unit else f"{count / unit:.0f}{name}"
    return f"{count:.0f}"


@style.house_style()
def class_scores(
    series: Mapping[str, NDArray[np.floating]],
    legend: Legend,
    path: Path | str,
    title: str = "IoU per class (%)",
) -> Path:
    """Bars of IoU (0..1, order of `scored_labels`, NaN = class not there) per class, one bar for each of the series.

    `series` is {"pseudo masks (training windows)": ..., "segmenter from pseudo masks (test)": ...}. The first rows
    are the means over the classes that are there.
    """
    labels = scored_labels(legend)
    values = np.array([np.asarray(scores, float) for scores in series.values()])  # series, classes
    if values.ndim != 2 or values.shape[1] != len(labels):
        raise DataError(f"scores have shape {values.shape}, but the legend has {len(labels)} classes: not its data set")
    kept = np.flatnonzero(~np.isnan(values).all(axis=0))
    shown = np.hstack([_means(values), values[:, kept]]) * 100
    height = 1.35 + shown.shape[1] * (0.14 + 0.17 * len(values))
    figure = Figure(figsize=(8.5, height))
    axes = figure.add_axes((2.2 / 8.5, 0.45 / height, 5.9 / 8.5, 1 - 1.35 / height))
    places = np.arange(shown.shape[1]) + 0.25 * (np.arange(shown.shape[1]) > 0)
    _draw_bars(axes, dict(zip(series, shown, strict=True)), places)
    for place, label in zip(places[1:], kept + labels[0], strict=True):
        colour = class_colour(legend, int(label))
        spot = axes.get_yaxis_transform()
        axes.add_patch(Rectangle((-0.035, place - 0.36), 0.02, 0.72, transform=spot, clip_on=False, facecolor=colour,
                                 edgecolor=style.FAINT, linewidth=0.5))  # fmt: skip
    axes.set_yticks(places, ["mean of classes", *(class_name(legend, labels[place]) for place in kept)], fontsize=9.5)
    axes.get_yticklabels()[0].set_fontweight("bold")
    axes.tick_params(axis="y", length=0, pad=17)
    axes.grid(False, axis="y")
    axes.set(xlim=(0, 104), ylim=(places[-1] + 0.6, -0.6))
    figure.text(0.15 / 8.5, 1 - 0.12 / height, title, fontsize=13, weight="bold", va="top")
    figure.legend(loc="upper left", bbox_to_anchor=(0.05 / 8.5, 1 - 0.38 / height), ncols=len(series), fontsize=9.5,
                  handlelength=1.2, columnspacing=1.4)  # fmt: skip
    return style.save(figure, path)


def _means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """series classes -> series 1, over the classes that are not NaN."""
    return np.array([[row[~np.isnan(row)].mean() if (~np.isnan(row)).any() else np.nan] for row in values])


def _draw_bars(axes: Axes, series: Mapping[str, NDArray[np.float64]], places: NDArray[np.float64]) -> None:
    thick = 0.8 / len(series)
    for number, (name, values) in enumerate(series.items()):
        at = places + (number - (len(series) - 1) / 2) * thick
        axes.barh(at, np.nan_to_num(values), thick * 0.92, color=style.SERIES[number % len(style.SERIES)], label=name)
        for place, value in zip(at, values, strict=True):
            words = "none" if np.isnan(value) else f"{value:.0f}"
            axes.text(np.nan_to_num(value) + 0.8, place, words, va="center_baseline", fontsize=8, color=style.FAINT)
