"""Reliability diagrams: how often a map is right where it says that it is sure."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cluemap.figures import style


class ReliabilityCurve(NamedTuple):
    """Bins of confidence; NaN where one is empty."""

    confidence: NDArray[np.float64]  # mean
    accuracy: NDArray[np.float64]
    share: NDArray[np.float64]  # of all pixels
    error: float  # ECE


@style.house_style()
def reliability_diagram(curves: Mapping[str, Mapping[str, ReliabilityCurve]], path: Path | str) -> Path:
    """Title of a panel -> name of a line -> its curve. A dot's area is its share of the pixels; on the diagonal
    confidence is what it says."""
    figure = Figure(figsize=(4.4 * len(curves) + 0.6, 4.6))
    figure.subplots_adjust(left=0.7 / (4.4 * len(curves) + 0.6), right=0.98, top=0.87, bottom=0.13, wspace=0.2)
    panels = np.atleast_1d(figure.subplots(1, len(curves), sharey=True))
    for axes, (title, lines) in zip(panels, curves.items(), strict=True):
        axes.plot([0, 100], [0, 100], color=style.FAINT, linewidth=1)
        for number, (name, curve) in enumerate(lines.items()):
            _draw(axes, name, curve, style.SERIES[number % len(style.SERIES)])
        axes.set(title=title, xlim=(0, 100), ylim=(0, 100), xlabel="confidence (%)", aspect="equal")
        axes.legend(loc="upper left", fontsize=8.5)
    panels[0].set_ylabel("pixels that are right (%)")
    return style.save(figure, path)


def _draw(axes: Axes, name: str, curve: ReliabilityCurve, colour: str) -> None:
    known = ~np.isnan(curve.confidence)
    x, y = 100 * curve.confidence[known], 100 * curve.accuracy[known]
    axes.plot(x, y, color=colour, linewidth=1.2, label=f"{name}: ECE {100 * curve.error:.1f} %")
    axes.scatter(x, y, s=8 + 220 * curve.share[known], color=colour, alpha=0.6, linewidths=0)
