"""The land: parcels with crops, and what lies between them (roads, hedges, woods, villages, water, undeclared fields).

Every pixel belongs to one element (a parcel, a road, a wood); an element is of one kind (kinds.py). Woods, rivers and
villages are laid over the parcels and take their part of them. Neighbouring parcels tend to grow the same crops.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluemap.data.synthetic.generator_params import LandKnobs
from cluemap.data.synthetic.land_cover import CROPS, KINDS, NAMES, OTHERS
from cluemap.data.synthetic.parcels import cut_land
from cluemap.data.synthetic.random_fields import Floats, smooth_field

Elements = NDArray[np.int32]  # H W -> number of the element that covers a pixel
Numbers = NDArray[np.int64]  # e
Size = tuple[int, int]  # H, W

BACKGROUND, VOID = 0, 19  # PASTIS's ids
RIM = 24  # pixels of land made beyond each side, so that parcels are cut off by the patch's edge
# What a village consists of: bands of a rough field, from low to high.
LOTS = ((-9.0, -0.9, "hedge"), (-0.9, -0.1, "lawn"), (-0.1, 0.35, "road"), (0.35, 1.5, "roofs"), (1.5, 9.0, "halls"))
SMALLEST = 6  # pixels; what is left of a parcel below this is no parcel any more


@dataclass(frozen=True)
class Land:
    """What lies where in a region, its rim included. Elements and parcels are numbers; parcel 0 is no parcel."""

    elements: Elements  # H = h + 2 RIM, W = w + 2 RIM
    kinds: NDArray[np.int64]  # element -> number in KINDS
    labels: NDArray[np.uint8]  # h w, PASTIS's ids: 0 background, crops, 19 void
    parcels: NDArray[np.int32]  # h w, 1.. in the order of the elements


def make_land(height: int, width: int, params: LandKnobs, rng: np.random.Generator) -> Land:
    """-> the land of a region of h w pixels."""
    full = (height + 2 * RIM, width + 2 * RIM)
    cutting = cut_land(*full, params, rng)
    elements = cutting.elements.reshape(full)
    names = list(cutting.kinds)
    for lay in (_woods, _river, _villages):
        elements = lay(elements, names, params, rng)
    is_parcel = np.array([name == "parcel" for name in names])
    sizes = np.bincount(elements.ravel(), minlength=len(names))
    kinds = np.array([NAMES.get(name, -1) for name in names])
    kinds[is_parcel] = _use_parcels(np.array(cutting.centres), sizes, np.flatnonzero(is_parcel), full, params, rng)
    labels, parcels = _annotate(elements, kinds, sizes)
    return Land(elements, kinds, labels, parcels)


def _over(elements: Elements, names: list[str], where: NDArray[np.bool_], name: str) -> Elements:
    """Add an element called `name` that takes the pixels `where` from the others."""
    names.append(name)
    return np.where(where, np.int32(len(names) - 1), elements)


def _woods(elements: Elements, names: list[str], params: LandKnobs, rng: np.random.Generator) -> Elements:
    height, width = elements.shape
    field = smooth_field(height, width, 13.0, rng) + 0.18 * smooth_field(height, width, 2.0, rng)
    share = params.woods * np.exp(0.5 * rng.standard_normal())
    wooded = field > np.quantile(field, 1 - min(share, 0.6))
    needles = smooth_field(height, width, 10.0, rng) > 0.7
    elements = _over(elements, names, wooded, "broadleaf wood")
    return _over(elements, names, wooded & needles, "conifer wood")


def _river(elements: Elements, names: list[str], params: LandKnobs, rng: np.random.Generator) -> Elements:
    height, width = elements.shape
    rows, columns = np.mgrid[:height, :width]
    angle, place = np.pi * rng.random(), 0.2 + 0.6 * rng.random(2)
    across = (rows - place[0] * height) * np.cos(angle) + (columns - place[1] * width) * np.sin(angle)
    across = np.abs(across + 9.0 * smooth_field(height, width, 14.0, rng))
    if rng.random() > params.river:
        return elements
    half = 0.8 + 1.4 * rng.random()
    elements = _over(elements, names, across < half + 1.6, "hedge")
    return _over(elements, names, across < half, "water")


def _villages(elements: Elements, names: list[str], params: LandKnobs, rng: np.random.Generator) -> Elements:
    height, width = elements.shape
    rows, columns = np.mgrid[:height, :width]
    ragged = smooth_field(height, width, 5.0, rng)
    lots = smooth_field(height, width, 0.9, rng)
    for _ in range(rng.poisson(params.villages * height * width / 128**2)):
        row, column, radius = height * rng.random(), width * rng.random(), 5.0 + 9.0 * rng.random()
        inside = np.hypot(rows - row, columns - column) + 3.0 * ragged < radius
        for low, high, name in LOTS:
            elements = _over(elements, names, inside & (lots >= low) & (lots < high), name)
    return elements


def _use_parcels(
    centres: Floats, sizes: Numbers, chosen: Numbers, full: Size, params: LandKnobs, rng: np.random.Generator
) -> Numbers:
    """-> kind of each chosen element: a crop, or something undeclared; crops keep to the patch's shares of the area."""
    kinds = choose(centres[chosen], sizes[chosen], CROPS, full, params, rng)
    others = np.array([KINDS[number].share for number in OTHERS])
    drawn = np.searchsorted(np.cumsum(others / others.sum()), rng.random(len(chosen)))
    undeclared = rng.random(len(chosen)) > params.declared
    return np.where(undeclared, np.array(OTHERS)[drawn], kinds)


def choose(
    centres: Floats, sizes: Numbers, kinds: tuple[int, ...], full: Size, params: LandKnobs, rng: np.random.Generator
) -> Numbers:
    """centres e 2, sizes e -> e: kinds in clusters, each with about its share of the area (shares vary by patch)."""
    shares = np.array([KINDS[number].share for number in kinds])
    shares = shares * np.exp(params.crop_share_spread * rng.standard_normal(len(kinds)))
    shares /= shares.sum()
    place = np.clip(centres.astype(int), 0, np.array(full) - 1)
    liking = np.stack(
        [smooth_field(full[0], full[1], params.crop_length, rng)[place[:, 0], place[:, 1]] for _ in kinds], axis=1
    )
    liking = params.crop_cluster * liking - np.log(-np.log(rng.random(liking.shape)))  # Gumbel: a random choice
    bias = np.log(shares)
    for _ in range(40):
        taken = np.bincount((liking + bias).argmax(axis=1), sizes, minlength=len(kinds)) / max(sizes.sum(), 1)
        bias = bias + 0.5 * np.log((shares + 0.01) / (taken + 0.01))
    return np.array(kinds)[(liking + bias).argmax(axis=1)]


def _annotate(elements: Elements, kinds: Numbers, sizes: Numbers) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """-> labels, parcels of the inner part: a parcel with more than half of its area outside is void, as in PASTIS."""
    inner = elements[RIM:-RIM, RIM:-RIM]
    inside = np.bincount(inner.ravel(), minlength=len(kinds))
    crops = np.array([KINDS[number].crop for number in kinds], np.uint8)
    declared = (crops > 0) & (inside >= SMALLEST)
    labels = np.where(2 * inside < sizes, VOID, crops) * declared
    numbers = np.cumsum(declared) * declared
    return labels.astype(np.uint8)[inner], numbers.astype(np.int32)[inner]
