"""How often maps are wrong at each distance from a class border."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from cluemap.figures import style


@style.house_style()
def border_errors(
    errors: Mapping[str, Mapping[str, float]],
    pixels: Mapping[str, int],
    path: Path | str,
    title: str = "Wrong pixels by their distance from a border",
) -> Path:
    """{"segmenter": {"1": share of wrong pixels, "2": .., "farther": ..}, ..} -> a line each; `pixels` at the same
    distances stand beneath. NaN (no pixel there) is left out.
    """
    places = list(pixels)
    at = np.arange(len(places))
    figure = Figure(figsize=(8.5, 4.4), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, weight="bold")
    above, beneath = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for number, (name, shares) in enumerate(errors.items()):
        values = 100 * np.array([shares[place] for place in places], float)
        above.plot(at, values, "o-", color=style.SERIES[number % len(style.SERIES)], ms=5, label=name)
    above.set_ylim(bottom=0)
    above.set_title("wrong (% of the pixels at that distance)")
    above.legend(loc="upper right")
    share = 100 * np.array(list(pixels.values()), float) / max(1, sum(pixels.values()))
    beneath.bar(at, share, color="#c9c9c9")
    beneath.set_title("where the pixels lie (%)")
    beneath.set_xticks(at, places)
    beneath.set_xlabel("pixels to the nearest pixel of another true class")
    return style.save(figure, path)
