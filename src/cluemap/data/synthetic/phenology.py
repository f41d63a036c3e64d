"""How the plants of every element grow, ripen and are cut: shares of the ground under green, dry and flowering plants.

Parcels of one crop differ in earliness, ripening and vigour; what grows before and after the main crop differs too.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluemap.data.synthetic.generator_params import GrowthParams
from cluemap.data.synthetic.land_cover import KINDS, Phase

Floats = NDArray[np.float64]
NOTHING = Phase(0.0, 1.0, 0.0, 1.0, 0.0)
RECOVERY = 18.0  # days in which a cut meadow has grown back two thirds
CUT_DAYS, CUT_SPREAD = np.array([142.0, 190.0, 246.0]), 11.0


@dataclass(frozen=True)
class Growth:
    """Every element's course: phases e p 5 (start, ramp, end, ramp, height), and cuts e q (day; far off = none)."""

    green: Floats
    dry: Floats
    petals: Floats
    cuts: Floats


def make_growth(kinds: NDArray[np.int64], shift: float, params: GrowthParams, rng: np.random.Generator) -> Growth:
    """kinds e -> the elements' own courses; `shift`: days by which the whole region is late."""
    count = len(kinds)
    late = shift + params.parcel_shift * rng.standard_normal(count)
    ripe = shift + 0.5 * (late - shift) + params.ripening_shift * rng.standard_normal(count)
    vigour = np.exp(params.vigour * rng.standard_normal(count))
    green, dry, petals = (_phases(kinds, part) for part in ("green", "dry", "petals"))
    free = np.array([KINDS[kind].free for kind in kinds])
    sown = np.where(free, 75.0 + 110.0 * rng.random(count), 0.0)
    green[:, :, [0, 2]] += sown[:, None, None]
    for phases, first, last in ((green, late, ripe), (dry, ripe, ripe), (petals, late, late)):
        phases[:, :, 0] += first[:, None]
        phases[:, :, 2] += last[:, None]
    green[:, :, 4] *= vigour[:, None]
    before_and_after, stubble = _between_crops(kinds, params, rng)
    cut = np.array([KINDS[kind].cut for kind in kinds])[:, None] & (rng.random((count, 3)) < params.cuts)
    days = CUT_DAYS + CUT_SPREAD * rng.standard_normal((count, 3)) + late[:, None]
    return Growth(
        np.concatenate([green, before_and_after], axis=1), np.concatenate([dry, stubble], axis=1), petals,
        np.where(cut, days, 1e6),
    )  # fmt: skip


def _phases(kinds: NDArray[np.int64], part: str) -> Floats:
    """-> e p 5: the kinds' phases, filled up with empty ones."""
    most = max(len(getattr(kind, part)) for kind in KINDS)
    table = [(*getattr(kind, part), *[NOTHING] * (most - len(getattr(kind, part)))) for kind in KINDS]
    return np.array(table, np.float64)[kinds]


def _between_crops(kinds: NDArray[np.int64], params: GrowthParams, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """-> green e 2 5, dry e 1 5: the crop or catch crop before the main one, the one after it, and old stubble."""
    count = len(kinds)
    annual = np.array([KINDS[kind].annual for kind in kinds])
    sown, harvested = (np.array([_season(kind)[end] for kind in range(len(KINDS))])[kinds] for end in (0, 1))
    chance, day, end, height = rng.random((4, 2, count))
    grows = annual & (chance < params.catch_crop)
    before = np.stack([
        np.full(count, -115.0) + 30 * day[0], np.full(count, 9.0), -20 + 95 * end[0], np.full(count, 7.0),
        (grows[0] & (sown > 40)) * (0.15 + 0.6 * height[0]),
    ], axis=1)  # fmt: skip
    after = np.stack([
        harvested + 45 + 25 * day[1], np.full(count, 9.0), np.full(count, 420.0), np.full(count, 10.0),
        grows[1] * (0.1 + 0.6 * height[1]),
    ], axis=1)  # fmt: skip
    old = np.stack([
        np.full(count, -400.0), np.full(count, 10.0), -95 + 40 * rng.random(count), np.full(count, 8.0),
        annual * 0.6 * rng.random(count),
    ], axis=1)  # fmt: skip
    return np.stack([before, after], axis=1), old[:, None]


def _season(kind: int) -> tuple[float, float]:
    """-> first and last day of the kind's green phases (0, 0 where it has none)."""
    phases = KINDS[kind].green
    return min((phase.start for phase in phases), default=0.0), max((phase.end for phase in phases), default=0.0)


def cover(growth: Growth, days: NDArray[np.float64]) -> Floats:
    """days t -> t e 3: share of the ground under green, flowering and dry plants; together at most 0.97."""
    green = _course(growth.green, days)
    since = days[:, None, None] - growth.cuts[None]  # t e q
    fresh = np.where(since >= 0, np.exp(-np.maximum(since, 0.0) / RECOVERY), 0.0).max(axis=2)
    dry = _course(growth.dry, days) + 0.22 * fresh * green
    green = np.minimum(green * (1 - 0.62 * fresh), 0.97)
    flowering = green * np.clip(_course(growth.petals, days), 0.0, 0.9)
    return np.stack([green - flowering, flowering, np.clip(dry, 0.0, 0.97 - green)], axis=2)


def _course(phases: Floats, days: NDArray[np.float64]) -> Floats:
    """phases e p 5, days t -> t e: sum of the phases."""
    start, start_ramp, end, end_ramp, height = np.moveaxis(phases, -1, 0)
    total = np.zeros((len(days), len(phases)))
    for row, day in enumerate(days):
        total[row] = (height * _logistic((day - start) / start_ramp) * _logistic((end - day) / end_ramp)).sum(axis=1)
    return total


def _logistic(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-np.clip(x, -60, 60)))
