"""Pictures that lie in files, beside each other under their names."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.image import imread

from cluemap.figures.style import DOTS_PER_INCH, house_style, save, show, tile, write

HEAD, GAP = 0.35, 0.15  # inches


@house_style()
def beside(pictures: Sequence[Path], names: Sequence[str], path: Path) -> Path:
    """Write one PNG in which the PNGs stand in a row, each at its own size, `names` above them."""
    arrays = [imread(picture) for picture in pictures]  # h w 3 or 4
    sizes = [(array.shape[1] / DOTS_PER_INCH, array.shape[0] / DOTS_PER_INCH) for array in arrays]
    width = sum(across for across, _ in sizes) + GAP * (len(sizes) - 1)
    figure = Figure(figsize=(width, HEAD + max(down for _, down in sizes)))
    left = 0.0
    for array, name, (across, down) in zip(arrays, names, sizes, strict=True):
        write(figure, left + GAP / 2, 0.05, name, weight="bold")
        show(tile(figure, left, HEAD, across, down), array)
        left += across + GAP
    return save(figure, path)
