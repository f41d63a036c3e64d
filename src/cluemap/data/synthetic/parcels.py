"""Farmland cut into convex parcels: blocks between roads, then rows and strips of fields between hedges and verges.

A rectangle is halved again and again along straight lines, as land was parcelled out; the lines get a width by their
rank (road, hedge, verge, plain boundary). Pixels are looked up in gently bent coordinates, so boundaries wander.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cluemap.data.synthetic.generator_params import LandKnobs
from cluemap.data.synthetic.random_fields import smooth_field

Floats = NDArray[np.float64]
ROAD_AREA, HEDGE_AREA = 4500.0, 900.0  # blocks above this many pixels are parted by roads, then by hedges
SAME = 1e-9  # lengths within this share count as equal: the last bit, which differs by machine, must not decide
LINE_WIDTHS = {"road": 1.3, "hedge": 1.5, "verge": 1.0}  # pixels; a road has a verge on either side


@dataclass
class Cutting:
    """The state of the cutting: which element each pixel belongs to, and what the elements are."""

    elements: NDArray[np.int32]  # flat pixels -> element
    kinds: list[str] = field(default_factory=list)  # element -> name of a kind, "parcel" where a crop may grow
    centres: list[tuple[float, float]] = field(default_factory=list)  # element -> mean row, column

    def add(self, pixels: NDArray[np.int64], kind: str, centre: tuple[float, float]) -> None:
        self.elements[pixels] = len(self.kinds)
        self.kinds.append(kind)
        self.centres.append(centre)


def cut_land(height: int, width: int, params: LandKnobs, rng: np.random.Generator) -> Cutting:
    """-> every pixel of a h w region given to a parcel or to a line (road, hedge, verge) between parcels."""
    rows, columns = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    rows = rows + params.bend * smooth_field(height, width, 16.0, rng)
    columns = columns + params.bend * smooth_field(height, width, 16.0, rng)
    places = np.stack([rows.ravel(), columns.ravel()], axis=1)  # p 2
    reach = 8.0  # the outermost block reaches over the region's rim
    top, left, bottom, right = -reach, -reach, height + reach, width + reach
    corners = np.array([(top, left), (top, right), (bottom, right), (bottom, left)])
    cutting = Cutting(np.full(len(places), -1, np.int32))
    _cut(cutting, places, np.arange(len(places)), corners, rng.random() * np.pi, params, rng)
    return cutting


def _cut(
    cutting: Cutting, places: Floats, pixels: NDArray[np.int64], polygon: Floats, angle: float,
    params: LandKnobs, rng: np.random.Generator,
) -> None:  # fmt: skip
    """Part `polygon` (its `pixels` lie in it) until its pieces are parcels; `angle`: direction of the fields' rows."""
    area = polygon_area(polygon)
    goal = params.parcel_area * np.exp(params.parcel_spread * rng.standard_normal())
    if area < 1.5 * goal:
        cutting.add(pixels, "parcel", tuple(polygon.mean(axis=0)))
        return
    if area < ROAD_AREA:
        angle = longest_edge(polygon)
    normal, spans = long_way(polygon, angle)
    strips = HEDGE_AREA > area > 2.5 * goal and rng.random() < params.strips
    if strips and spans[0] > 4.0 * round(area / goal):  # wide enough for parallel strips of 4 pixels
        normal = np.array([-normal[1], normal[0]])
    normal = _turned(normal, 0.05 * rng.standard_normal())
    heights = project(polygon, normal)
    share = 0.5 + 0.16 * (2 * rng.random() - 1)
    offset = heights.min() + share * (heights.max() - heights.min())
    line, half = _line(area, rng)
    side = project(places[pixels], normal) - offset
    _lay_line(cutting, places, pixels, side, line, half)
    for sign in (1.0, -1.0):
        piece = clip_polygon(polygon, sign * normal, sign * offset + half)
        inside = sign * side > half
        if len(piece) > 2:
            _cut(cutting, places, pixels[inside], piece, angle, params, rng)


def _line(area: float, rng: np.random.Generator) -> tuple[str, float]:
    """-> kind of the line that parts a block of this area, and half its width (a road's with its verges)."""
    chance = rng.random()
    if area > ROAD_AREA:
        return "road", LINE_WIDTHS["road"] / 2 + 0.8 * chance
    if area > HEDGE_AREA:
        line = "hedge" if chance < 0.45 else "road" if chance < 0.6 else "verge"
        return line, LINE_WIDTHS[line] / 2
    return "verge", LINE_WIDTHS["verge"] / 2 if chance < 0.5 else 0.0


def _lay_line(
    cutting: Cutting, places: Floats, pixels: NDArray[np.int64], side: Floats, line: str, half: float
) -> None:
    """Give the pixels within `half` of the line (`side`: distance, signed) to it; a road's outer ones are verge."""
    on_line = np.abs(side) <= half
    if not on_line.any():
        return
    middle = tuple(places[pixels[on_line]].mean(axis=0))
    cutting.add(pixels[on_line], "verge" if line == "road" else line, middle)
    if line == "road":
        cutting.add(pixels[np.abs(side) <= LINE_WIDTHS["road"] / 2], "road", middle)


def longest_edge(polygon: Floats) -> float:
    """-> direction (radians) of the longest edge, the first among equals."""
    edges = np.roll(polygon, -1, axis=0) - polygon
    lengths = edges[:, 0] ** 2 + edges[:, 1] ** 2
    longest = edges[np.argmax(lengths > (1 - SAME) * lengths.max())]
    return float(np.arctan2(longest[1], longest[0]))


def long_way(polygon: Floats, angle: float) -> tuple[Floats, tuple[float, float]]:
    """-> the direction, of `angle` and its perpendicular, in which the polygon is longer; its (short, long) span."""
    along = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-along[1], along[0]])
    spans = [float(np.ptp(project(polygon, way))) for way in (along, across)]
    return (along if spans[0] > (1 - SAME) * spans[1] else across), (min(spans), max(spans))


def _turned(direction: Floats, angle: float) -> Floats:
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([cosine * direction[0] - sine * direction[1], sine * direction[0] + cosine * direction[1]])


def project(places: Floats, direction: Floats) -> Floats:
    """places p 2 -> p: how far along `direction`. Written out, since a matrix product rounds differently by machine."""
    return places[:, 0] * direction[0] + places[:, 1] * direction[1]


def polygon_area(polygon: Floats) -> float:
    """Area of a polygon (v 2) by the shoelace formula."""
    after = np.roll(polygon, -1, axis=0)
    return abs(float((polygon[:, 0] * after[:, 1] - polygon[:, 1] * after[:, 0]).sum())) / 2


def clip_polygon(polygon: Floats, normal: Floats, offset: float) -> Floats:
    """The part of a convex polygon (v 2) where place . normal > offset."""
    heights = project(polygon, normal) - offset
    points = []
    for number, (place, height) in enumerate(zip(polygon, heights, strict=True)):
        before = number - 1
        if (height > 0) != (heights[before] > 0):
            share = heights[before] / (heights[before] - height)
            points.append(polygon[before] + share * (place - polygon[before]))
        if height > 0:
            points.append(place)
    return np.array(points)
