"""Where the images lie, and the one grid that they are brought to."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.warp import transform_bounds

from cluemap.data.scenes.grid import SINGLE, Blocks, Grid, grid_over
from cluemap.data.scenes.scene_file import NAME, Scene
from cluemap.data.scenes.sources.granules import Granule, Layer
from cluemap.data.scenes.sources.raster_band import FAILURES, Look
from cluemap.errors import DataError

Looks = Mapping[Layer, Look]
SLACK = 0.01  # pixels


def place_of(granule: Granule, looks: Looks, pixel: float) -> Grid:
    """The land that all layers of a granule show, in pixels of `pixel` metres. Trims of odd size make bands of
    different resolution end at different edges: less than one coarse pixel is no other grid.

    Raises:
        DataError: a layer that is turned, oblong or in degrees, or that shows other land than the first.
    """
    first = granule.layers[0]
    for layer in granule.layers:
        found = looks[layer]
        if found.native is None or not found.crs.is_projected:
            raise DataError(
                f"{layer.path} is turned, oblong or in degrees: set grid.crs: {metres_for(found)} and "
                f"grid.resample: true in {NAME}"
            )
        apart = np.abs(np.subtract(found.bounds, looks[first].bounds)).max()
        if found.crs != looks[first].crs or apart >= max(found.pixel, looks[first].pixel, pixel) * (1 - SLACK):
            raise DataError(
                f"{layer.path} lies on {found.native}, but {first.path} on {looks[first].native}: set "
                f"grid.resample: true in {NAME} to bring all bands to one grid, or take {granule.name.name} out"
            )
    bounds = np.array([looks[layer].bounds for layer in granule.layers])
    inner = (*bounds[:, :2].max(axis=0), *bounds[:, 2:].min(axis=0))
    return grid_over(looks[first].crs, (float(inner[0]), float(inner[1]), float(inner[2]), float(inner[3])), pixel)


def grid_of(folder: Path, scene: Scene, granules: list[Granule], looks: Looks) -> Grid:
    """The scene's grid: as scene.yaml says, else all images together in the CRS of the first.

    Raises:
        DataError: an unknown CRS, bounds off the images, or images that lie on no one lattice.
    """
    wanted, file = scene.grid, folder / NAME
    try:
        crs = CRS.from_user_input(wanted.crs) if wanted.crs else looks[granules[0].layers[0]].crs
    except CRSError:
        raise DataError(f"{file}: grid.crs {wanted.crs!r} is no CRS: give one like EPSG:32632") from None
    if not crs.is_projected:
        some = looks[granules[0].layers[0]]
        raise DataError(
            f"{file}: the grid's CRS {crs.to_string()} is in degrees, but pixels are metres: set grid.crs: "
            f"{metres_for(some)} (the UTM zone of the images) and grid.resample: true"
        )
    boxes = _boxes(granules, looks, crs, file)
    low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    if wanted.bounds:
        grid = grid_over(crs, _four(wanted.bounds), wanted.pixel)
        _check_bounds(grid, boxes, file)
        return grid
    if wanted.crs and any(look.crs != crs for look in looks.values()):  # no corner to keep: round outwards
        low, high = np.floor(low / wanted.pixel) * wanted.pixel, np.ceil(high / wanted.pixel) * wanted.pixel
    return grid_over(crs, _four([*low, *high]), wanted.pixel)


def check_lattice(granules: list[Granule], places: list[Grid], grid: Grid) -> None:
    """See that all images lie on one lattice, the grid's; raises DataError naming the first that does not."""
    first = places[0]
    for granule, place in zip(granules, places, strict=True):
        if not first.aligned(place):
            raise DataError(
                f"{granule.layers[0].path} lies on {place}, but {granules[0].layers[0].path} on {first}: set "
                f"grid.resample: true in {NAME} to bring all dates to one grid, or take the date out"
            )
    if not grid.aligned(first):
        raise DataError(
            f"the images lie on {first}, which is not on the lattice of the scene's grid, {grid}: set "
            f"grid.resample: true in {NAME} to bring them together"
        )


def blocks_of(layers: list[Layer], looks: Looks, grid: Grid) -> Blocks:
    """How most pixels of the layers are cut into blocks, in pixels of the grid; SINGLE where none lies along it."""
    found: Counter[Blocks] = Counter()
    for layer in layers:
        look = looks[layer]
        if look.native is None or look.native.crs != grid.crs:
            continue
        height, width = (max(1, round(side * look.native.pixel / grid.pixel)) for side in look.block)
        row, column = grid.offset(look.native)
        found[Blocks(height, width, row % height, column % width)] += look.native.height * look.native.width
    return max(found, key=lambda blocks: found[blocks], default=SINGLE)


def metres_for(found: Look) -> str:
    """The CRS in metres to suggest for an image: its UTM zone."""
    if found.crs.is_projected:
        return found.crs.to_string() if len(found.crs.to_string()) < 20 else "EPSG:32632"
    try:
        west, south, east, north = transform_bounds(found.crs, "EPSG:4326", *found.bounds)
    except FAILURES:
        return "EPSG:32632"
    zone = int(((west + east) / 2 + 180) // 6) % 60 + 1
    return f"EPSG:{(32600 if south + north >= 0 else 32700) + zone}"


def _boxes(granules: list[Granule], looks: Looks, crs: CRS, file: Path) -> np.ndarray:
    """n 4: every granule's land in the grid's CRS."""
    boxes = []
    for granule in granules:
        bounds = np.array([looks[layer].bounds for layer in granule.layers if looks[layer].crs == looks[
            granule.layers[0]].crs])  # fmt: skip
        inner = (*bounds[:, :2].max(axis=0), *bounds[:, 2:].min(axis=0))
        try:
            boxes.append(transform_bounds(looks[granule.layers[0]].crs, crs, *inner, densify_pts=21))
        except FAILURES as error:
            raise DataError(
                f"{granule.name} cannot be brought to {crs.to_string()[:40]} ({error}): correct grid.crs in {file}, or "
                "take the image out"
            ) from None
    found = np.array(boxes)
    if not np.isfinite(found).all():
        raise DataError(f"{file}: the images lie outside of what grid.crs {crs.to_string()} covers: set another")
    return found


def _check_bounds(grid: Grid, boxes: np.ndarray, file: Path) -> None:
    left, bottom, right, top = grid.bounds
    shared = (boxes[:, 0] < right) & (boxes[:, 2] > left) & (boxes[:, 1] < top) & (boxes[:, 3] > bottom)
    if not shared.any():
        span = [*boxes[:, :2].min(axis=0).round(1).tolist(), *boxes[:, 2:].max(axis=0).round(1).tolist()]
        raise DataError(
            f"{file}: grid.bounds {list(grid.bounds)} lie off the images, which span {span} in {grid.name}: "
            "correct grid.bounds"
        )


def _four(numbers: list[float]) -> tuple[float, float, float, float]:
    return float(numbers[0]), float(numbers[1]), float(numbers[2]), float(numbers[3])
