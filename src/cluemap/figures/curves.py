"""Curves: scores against the pseudo masks' threshold, and a training run against its steps."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from cluemap.errors import DataError
from cluemap.figures import style
from cluemap.training.metrics import Curve

SOURCES = {
    "clue": "clue CAM", "refined": "fused CAM, propagated", "fused": "raw fused CAM", "spatial": "raw spatial CAM",
    "temporal": "raw temporal CAM",
}  # fmt: skip
TITLES = {  # part of a metric's name before the slash -> title of its panel, where the bare words would not do
    "loss": "losses", "validation": "validation scores", "system": "peak memory (GiB)",
}  # fmt: skip
FROM_ZERO = ("windows_per_second", "system")  # panels whose axis starts at 0: their wiggles are no news
LONG, SHORT = 60, 12  # points: curves at least so long get a running mean, shorter ones a mark at each point


@style.house_style()
def threshold_curve(
    curves: Mapping[str, Curve],
    used: Mapping[str, float],
    path: Path | str,
    title: str = "Pseudo masks of the training windows against truth",
) -> Path:
    """OA and mIoU (0..1) at every threshold, one line per CAM source (clue, fused, spatial, temporal or any words).

    A filled dot marks the threshold that was used, a star the oracle's, the best mIoU, which nothing ever uses.
    """
    height = 4.05 + 0.19 * len(curves)  # inches, of them 0.19 for each line of words at the bottom
    figure = Figure(figsize=(10, height))
    figure.suptitle(title, x=0.065, ha="left", fontsize=13, weight="bold")
    left, right = figure.subplots(1, 2, sharex=True)
    figure.subplots_adjust(
        left=0.065, right=0.985, top=1 - 0.78 / height, bottom=(0.67 + 0.19 * len(curves)) / height, wspace=0.13
    )
    for number, (source, curve) in enumerate(curves.items()):
        colour, best = style.SERIES[number % len(style.SERIES)], curve.best
        thresholds, at = np.asarray(curve.thresholds), used.get(source)
        name = f"{SOURCES.get(source, source)}: mIoU best {_percent(curve.miou[best])} at {thresholds[best]:.2f}"
        if at is not None:
            name += f", used {_percent(np.interp(at, thresholds, curve.miou))} at {at:.2f}"
        for axes, scores in ((left, curve.overall_accuracy), (right, curve.miou)):
            axes.plot(thresholds, np.asarray(scores) * 100, color=colour, label=name)
            axes.plot(thresholds[best], scores[best] * 100, "*", color="white", mec=colour, mew=1.6, ms=13, zorder=4)
            if at is not None:
                axes.plot(at, np.interp(at, thresholds, scores) * 100, "o", color=colour, mec="white", ms=8, zorder=5)
    left.set_title("overall accuracy (% of pixels)")
    right.set_title("mean IoU of the classes (%)")
    for axes in (left, right):
        axes.set_xlabel("threshold \N{GREEK SMALL LETTER BETA}: weaker pixels get no class")
        axes.margins(x=0.01)
    _marker_key(left)
    handles, names = right.get_legend_handles_labels()
    figure.legend(handles, names, loc="lower left", bbox_to_anchor=(0.055, 0.01), fontsize=9, labelspacing=0.35)
    return style.save(figure, path)


@style.house_style()
def learning_curve(
    lines: Mapping[str, Mapping[int, Sequence[float]]],
    path: Path | str,
    title: str = "Windows with masks, and the score on the test fold",
) -> Path:
    """mIoU (0..1) against the number of labelled windows: {words: {windows: a score a seed}}; dots and their mean."""
    figure = Figure(figsize=(6.4, 4.2 + 0.19 * len(lines)), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, weight="bold")
    axes = figure.subplots()
    for number, (words, points) in enumerate(lines.items()):
        colour, counts = style.SERIES[number % len(style.SERIES)], sorted(points)
        axes.plot(counts, [100 * np.mean(points[count]) for count in counts], color=colour, label=words)
        for count in counts:
            axes.plot([count] * len(points[count]), 100 * np.asarray(points[count]), "o", color=colour, ms=4, alpha=0.6)
    counts = sorted({count for points in lines.values() for count in points})
    axes.set_xscale("log")
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.minorticks_off()
    axes.set_xlabel("labelled windows")
    axes.set_ylabel("mIoU (%)")
    figure.legend(loc="outside lower left", fontsize=9, labelspacing=0.35)
    return style.save(figure, path)


def _percent(share: float) -> str:
    return "unknown" if np.isnan(share) else f"{share * 100:.1f} %"


def _marker_key(axes: Axes) -> None:
    used = axes.plot([], [], "o", color=style.FAINT, mec="white", ms=8)[0]
    best = axes.plot([], [], "*", color="white", mec=style.FAINT, mew=1.6, ms=13)[0]
    axes.legend([used, best], ["used", "oracle (best mIoU, never used)"], loc="best", fontsize=9)


@style.house_style()
def training_curves(
    points: Sequence[Mapping[str, float]],
    path: Path | str,
    marks: Mapping[str, int] | None = None,
    title: str = "Training",
) -> Path:
    """Everything logged against the step: points are {"step": 10, "loss/total": 0.3, ...}, each with what it has.

    Metrics with the same part before the slash share a panel; long noisy curves are drawn faintly with their running
    mean on top. `marks` are steps worth a line, as {"clues start": 200}.

    Raises:
        DataError: there is no point with a step and a finite value.
    """
    groups = _groups(points)
    if not groups:
        raise DataError("no training curve to draw: no logged point has a step and a finite number")
    columns = min(3, len(groups))
    rows = -(-len(groups) // columns)
    figure = Figure(figsize=(4.2 * columns + 0.4, 3.1 * rows + 0.5), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, weight="bold")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    for axes, (group, series) in zip(panels, groups.items(), strict=False):
        _draw_group(axes, group, series)
        for step in (marks or {}).values():
            axes.axvline(step, color=style.FAINT, linewidth=1, linestyle=(0, (4, 3)))
    for name, step in (marks or {}).items():
        panels[0].annotate(name, (step, 1), (0, 3), ("data", "axes fraction"), "offset points", fontsize=8, ha="center",
                           color=style.FAINT)  # fmt: skip
    for axes in panels[len(groups) :]:
        axes.set_visible(False)
    for axes in panels[max(0, len(groups) - columns) : len(groups)]:
        axes.set_xlabel("step")
        axes.tick_params(labelbottom=True)
    return style.save(figure, path)


def _groups(points: Sequence[Mapping[str, float]]) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Points -> {group: {curve name: n 2, step and value, by step}}, only curves with a finite value."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for point in points:
        for key, value in point.items():
            if key != "step" and isinstance(value, int | float) and "step" in point:
                group, _, name = key.partition("/")
                found.setdefault(group, {}).setdefault(name or group, []).append((point["step"], value))
    groups: dict[str, dict[str, NDArray[np.float64]]] = {}
    for group, series in found.items():
        for name, values in series.items():
            curve = np.array(sorted(values, key=lambda pair: pair[0]), dtype=float)
            if np.isfinite(curve[:, 1]).any():
                groups.setdefault(group, {})[name] = curve
    return groups


def _draw_group(axes: Axes, group: str, series: Mapping[str, NDArray[np.float64]]) -> None:
    for number, (name, curve) in enumerate(series.items()):
        colour = style.SERIES[number % len(style.SERIES)]
        step, value = curve.T
        if len(curve) >= LONG and group != "learning_rate":
            axes.plot(step, value, color=colour, linewidth=0.8, alpha=0.25)
            value = _running_mean(value, len(curve) // 50)
        mark = "o" if len(curve) < SHORT else None
        axes.plot(step, value, color=colour, label=_words(name), marker=mark, markersize=4)
    axes.set_title(TITLES.get(group, group.replace("_", " ")))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    if group == "learning_rate":
        axes.set_yscale("log")
    elif group in FROM_ZERO:
        axes.set_ylim(0, 1.25 * max(np.nanmax(curve[:, 1]) for curve in series.values()))
    if set(series) != {group}:
        many = len(series) > 5
        axes.legend(fontsize=7 if many else 8.5, ncols=1 + many, handlelength=1.4)


def _words(name: str) -> str:
    return name.removesuffix("_gib").replace("_", " ").replace("miou", "mIoU")


def _running_mean(values: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    """Mean over `reach` values to each side, fewer near the ends; values that are not finite do not count."""
    known, kernel = np.isfinite(values), np.ones(2 * reach + 1)
    count = np.convolve(known, kernel, mode="same")
    return np.where(known, np.convolve(np.where(known, values, 0), kernel, mode="same") / np.maximum(count, 1), np.nan)
