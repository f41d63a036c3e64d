"""Maps of classes as src/predict.py writes them, for tests of what is made of a map."""

from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import Affine

CRS, LEFT, TOP, PIXEL = "EPSG:32632", 600_000.0, 5_790_240.0, 10.0
NAMES = {1: "wheat", 2: "corn", 3: "winter rape"}
COLOURS = {1: (255, 127, 14), 2: (44, 160, 44), 3: (214, 39, 40)}
VOID = 255


def write_map(path: Path, classes: np.ndarray, crs: str = CRS, names: dict[int, str] = NAMES) -> Path:
    """h w uint8 -> a GeoTIFF with names in its tags and a colour table."""
    height, width = classes.shape
    transform = Affine(PIXEL, 0, LEFT, 0, -PIXEL, TOP)
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=1, dtype="uint8", crs=crs, transform=transform,
        nodata=VOID,
    ) as file:  # fmt: skip
        file.write(classes.astype(np.uint8), 1)
        file.update_tags(1, **{f"class_{number}": name for number, name in names.items()})
        file.write_colormap(1, {number: (*COLOURS[number], 255) for number in names if number in COLOURS})
    return path


def blocks(height: int, width: int, side: int = 10, seed: int = 0, classes: int = 3) -> np.ndarray:
    """Squares of one class each, 1..`classes`."""
    numbers = np.random.default_rng(seed).integers(1, classes + 1, (-(-height // side), -(-width // side)))
    return np.kron(numbers, np.ones((side, side), int))[:height, :width].astype(np.uint8)


def confused(truth: np.ndarray, share: float, seed: int = 0) -> np.ndarray:
    """A map with errors: `share` of the wheat taken for corn, half as much of the rape for wheat."""
    draw = np.random.default_rng(seed).random(truth.shape)
    found = np.where((truth == 1) & (draw < share), 2, truth)
    return np.where((truth == 3) & (draw < share / 2), 1, found).astype(np.uint8)
