"""Pictures that lie in files, together in one picture under their names."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.image import imread

from cluemap.figures.style import DOTS_PER_INCH, house_style, save, show, tile, write

HEAD, GAP = 0.35, 0.15  # inches
WIDE = (
    1.5  # pictures that are so many times as wide as high stand one under the other: they can be read at a page's width
)


@house_style()
def beside(pictures: Sequence[Path], names: Sequence[str], path: Path) -> Path:
    """Write one PNG of the PNGs in a row, wide ones in a column, each at its own size, `names` above them."""
    arrays = [imread(picture) for picture in pictures]  # h w 3 or 4
    sizes = [(array.shape[1] / DOTS_PER_INCH, array.shape[0] / DOTS_PER_INCH) for array in arrays]
    column = all(across > WIDE * down for across, down in sizes)
    gaps = GAP * (len(sizes) - 1)
    across, down = zip(*sizes, strict=True)
    if column:
        figure = Figure(figsize=(max(across), sum(down) + HEAD * len(down) + gaps))
    else:
        figure = Figure(figsize=(sum(across) + gaps, HEAD + max(down)))
    left = top = 0.0
    for array, name, (width, height) in zip(arrays, names, sizes, strict=True):
        write(figure, left + GAP / 2, top + 0.05, name, weight="bold")
        show(tile(figure, left, top + HEAD, width, height), array)
        left, top = (left, top + HEAD + height + GAP) if column else (left + width + GAP, top)
    return save(figure, path)
