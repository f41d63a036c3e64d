"""The reliability diagram: what it draws of its bins, and that equal curves give equal bytes."""

import numpy as np

from cluemap.figures import reliability_diagram as module
from cluemap.figures.reliability_diagram import ReliabilityCurve, reliability_diagram


def curve(bins=15, empty=(0, 1, 2)):
    confidence = (np.arange(bins) + 0.5) / bins
    accuracy = confidence**1.3
    share = np.full(bins, 1 / (bins - len(empty)))
    for values in (confidence, accuracy, share):
        values[list(empty)] = np.nan if values is not share else 0
    return ReliabilityCurve(confidence, accuracy, share, 0.0625)


def test_empty_bins_are_left_out_and_the_error_is_told(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(module.style, "save", lambda figure, path: drawn.append(figure) or path)
    reliability_diagram({"trees": {"as trained": curve(), "temperature 1.70": curve(empty=())}}, tmp_path / "r.png")
    (axes,) = drawn[0].axes
    _, line, other = axes.get_lines()
    assert len(line.get_xdata()) == 12
    assert len(other.get_xdata()) == 15
    np.testing.assert_allclose(line.get_ydata(), 100 * ((np.arange(3, 15) + 0.5) / 15) ** 1.3)
    assert line.get_label() == "as trained: ECE 6.2 %"


def test_equal_curves_equal_bytes(tmp_path):
    files = [tmp_path / name for name in ("a.png", "b.png")]
    for file in files:
        reliability_diagram({"one": {"as trained": curve()}, "two": {"as trained": curve()}}, file)
    assert files[0].read_bytes() == files[1].read_bytes()
