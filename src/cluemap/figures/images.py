"""Arrays to look at: true colour of the clearest date, label maps in the data set's colours. Nothing is drawn here."""

from typing import TypeVar

import numpy as np
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

from cluemap.data.patches import NODATA, VOID, Legend
from cluemap.errors import DataError

UNSEEN_COLOUR = "#9a9a9a"  # a pixel that the chosen date did not see
SMALLEST_RANGE = 0.04  # reflectance between black and white at least, so that an even field shows no noise
HAZE_MARGIN = 0.02  # reflectance; thick cloud has 0.1 to 0.4 more haze than clear land

Picture = NDArray[np.float64]  # h w 3, red green blue, 0..1

Value = TypeVar("Value", bound=np.generic)


def haze(images: NDArray[np.int16], legend: Legend) -> NDArray[np.float64]:
    """t c h w -> t: 90th percentile over the pixels of blue - red / 2 in reflectance, 0 where that is negative.

    The haze-optimised transform (Zhang et al. 2002): land lies near a line in the red-blue plane, clouds and haze
    rise off it because they brighten blue more than any soil or crop does.
    """
    red, _, blue = (images[:, band] / legend.reflectance_scale for band in legend.true_colour)
    return np.maximum(np.percentile(blue - red / 2, 90, axis=(1, 2)), 0.0)


def clearest_date(images: NDArray[np.int16], legend: Legend, valid: NDArray[np.bool_] | None = None) -> int:
    """t c h w -> index of the date to show: of the least hazy sixth, the brightest over all bands.

    Haze alone cannot tell cloud shadow and low winter sun from a clear summer day; brightness among clear dates can.
    Dates that see fewer pixels than another one stay out, and so do dates hazier than the clearest by HAZE_MARGIN
    (a series may hold one clear date only). The first one wins a tie. No label is seen.
    """
    seen = (images != NODATA).all(axis=1).sum(axis=(1, 2))  # t, pixels
    seen = seen if valid is None else np.where(valid, seen, 0)
    if not seen.any():
        raise DataError("no date of this window was ever seen: there is no true colour to draw; run `prepare` again")
    candidates = np.flatnonzero(seen == seen.max())
    hazes = haze(images[candidates], legend)
    sixth = np.argsort(hazes, kind="stable")[: -(-len(candidates) // 6)]
    clear = np.sort(sixth[hazes[sixth] <= hazes.min() + HAZE_MARGIN])
    brightness = np.median(images[candidates[clear]].mean(axis=1), axis=(1, 2))
    return int(candidates[clear[brightness.argmax()]])


def true_colour(image: NDArray[np.int16], legend: Legend, low: float = 1.0, high: float = 99.0) -> Picture:
    """c h w -> h w 3: red, green and blue from their `low` percentile up, over one common range, so that hues stay.

    Brightened by a power of 0.8 as screens like it; grey where not seen.
    """
    bands = image[list(legend.true_colour)].transpose(1, 2, 0).astype(float)
    seen = (bands != NODATA).all(axis=2)
    picture = np.empty_like(bands)
    picture[:] = to_rgb(UNSEEN_COLOUR)
    if seen.any():
        floor, ceiling = np.percentile(bands[seen], [low, high], axis=0) / legend.reflectance_scale  # 3 each
        spread = np.maximum(ceiling - floor, max(0.8 * (ceiling - floor).max(), SMALLEST_RANGE))
        picture[seen] = np.clip((bands[seen] / legend.reflectance_scale - floor) / spread, 0, 1) ** 0.8
    return picture


def class_colour(legend: Legend, label: int) -> str:
    """The data set's colour of a label id: 0 background, 1..K crops, 255 void."""
    if label == VOID:
        return legend.void_colour
    return legend.background_colour if label == 0 else legend.classes[label - 1].colour


def class_name(legend: Legend, label: int) -> str:
    if label == VOID:
        return "not labelled"
    return "background" if label == 0 else legend.classes[label - 1].name


def label_picture(labels: NDArray[np.integer], legend: Legend) -> Picture:
    """h w -> h w 3: a label map in the data set's colours.

    Raises:
        DataError: an id that is neither 0..K nor 255.
    """
    table = np.full((256, 3), np.nan)
    for label in (*range(len(legend.classes) + 1), VOID):
        table[label] = to_rgb(class_colour(legend, label))
    picture = table[labels]
    if np.isnan(picture).any():
        wrong = int(labels[np.isnan(picture[..., 0])][0])
        raise DataError(f"label {wrong} is neither 0..{len(legend.classes)} nor {VOID}: draw it with its own legend")
    return picture


def cam_picture(cams: dict[int, NDArray[np.floating]], legend: Legend) -> Picture:
    """{class id: h w in 0..1} -> h w 3: each pixel in the colour of its best class, as strong as its score.

    Score 0 is the background's colour (void's, where there is no background).
    """
    scores = np.stack([np.clip(cam, 0, 1) for cam in cams.values()])  # k h w
    colours = np.array([to_rgb(class_colour(legend, label)) for label in cams])
    nothing = np.array(to_rgb(class_colour(legend, 0 if legend.background else VOID)))
    strength = scores.max(axis=0)[..., None]
    return nothing * (1 - strength) + colours[scores.argmax(axis=0)] * strength


def assemble(
    tiles: NDArray[Value], rows: NDArray[np.integer], columns: NDArray[np.integer], empty: int = VOID
) -> NDArray[Value]:
    """n h w, upper-left pixel of each window in its patch -> H W: the patch's map; `empty` where no window lies."""
    height, width = tiles.shape[1:]
    whole = np.full((int(max(rows)) + height, int(max(columns)) + width), empty, tiles.dtype)
    for tile, row, column in zip(tiles, rows, columns, strict=True):
        whole[row : row + height, column : column + width] = tile
    return whole
