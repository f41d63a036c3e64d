"""How a sample was drawn: as its columns say and its units bear out, or as the user says."""

from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cluemap.errors import DataError
from cluemap.mapping.postprocessing.class_map import IDS, ClassMap
from cluemap.statistics.reference_sample import ReferenceSample
from cluemap.statistics.sample_drawing import DRAWN, SIZE, STRATUM, WGS84

NOT_RANDOM = "NOT A PROBABILITY SAMPLE"
SAME_REGION = 0.01  # share by which the strata's and another map's pixels may differ
WAY_OUT = "or pass --not-random: then nobody may read the intervals as such, and every output says so"


@dataclass(frozen=True)
class Design:
    """Strata of a sample. Axes: u unit, h stratum."""

    sample: ReferenceSample  # the units that count
    stratum: NDArray[np.intp]  # u, from 0
    names: list[str]  # h
    sizes: NDArray[np.float64]  # h, pixels
    probability: bool  # whether the intervals hold
    statement: str  # one line for every output


def drawn_design(sample: ReferenceSample, source: ClassMap) -> Design:
    """The design in the columns that src/draw_sample.py wrote.

    Raises:
        DataError: no such columns, or units that were added, left out, moved, doubled or not labelled.
    """
    table = sample.table
    lacking = [name for name in (STRATUM, SIZE, DRAWN) if name not in table]
    if lacking:
        raise DataError(
            f"{sample.file} has no column {lacking[0]!r}, so nothing says that it is a probability sample: draw one "
            "with src/draw_sample.py, pass --random if another tool drew the units at random (over the whole map or "
            f"within each of its classes), {WAY_OUT}"
        )
    _refuse(sample, np.array([not name for name in sample.reference]), "have no reference label: label them")
    _refuse(sample, ~source.on_map(sample.rows, sample.columns), "lie off the map: give the map of their region")
    _refuse(sample, _doubled(sample), "lie in the same pixel: keep one line for each unit")
    _refuse(sample, _moved(sample, source), "were moved since they were drawn: put them back to their lon and lat")
    groups = table.groupby(STRATUM, sort=True)
    firsts = groups[[SIZE, DRAWN]].first()
    if (groups[[SIZE, DRAWN]].nunique() > 1).any(axis=None) or (firsts[DRAWN] > firsts[SIZE]).any():
        raise DataError(f"{sample.file}: {SIZE} and {DRAWN} contradict each other within a stratum: restore them")
    names = _stratum_names(firsts[SIZE], source)
    for name, drawn, units in zip(names, firsts[DRAWN], groups.size(), strict=True):
        if drawn != units:
            raise DataError(
                f"{sample.file}: {name} has {units} units, {drawn} were drawn: give all drawn units and no others, "
                f"{WAY_OUT}"
            )
    _refuse_other_region(sample, firsts[SIZE], source)
    stratum = np.searchsorted(firsts.index.to_numpy(), table[STRATUM].to_numpy())
    told = f"stratified random sample: {len(sample)} units in {len(names)} strata"
    return Design(sample, stratum.astype(np.intp), names, firsts[SIZE].to_numpy(np.float64), True, told)


def map_design(sample: ReferenceSample, source: ClassMap, random: bool) -> Design:
    """The map's classes as strata, for units that `random` says were drawn at random by another tool.

    Raises:
        DataError: random units that are not labelled or doubled; no unit on the map.
    """
    blank = np.array([not name for name in sample.reference])
    if random:
        _refuse(sample, blank, "have no reference label: label them")
        _refuse(sample, _doubled(sample), "lie in the same pixel: keep one line for each unit")
    kept = (sample.mapped != source.void) & ~blank
    if not kept.any():
        raise DataError(f"{sample.file}: none of its {len(sample)} units is labelled and lies on {source.file}")
    units = sample.only(kept)
    strata = np.flatnonzero(source.counts)
    left_out = f", {len(sample) - len(units)} off the map or without label left out" if len(units) < len(sample) else ""
    told = f"{len(units)} units{left_out}, the map's classes as strata"
    warning = f"{NOT_RANDOM}: {told}; the intervals do not hold"
    statement = f"said to be a random sample: {told}" if random else warning
    names = [source.names.get(int(number), str(number)) for number in strata]
    stratum = np.searchsorted(strata, units.mapped)
    return Design(units, stratum, names, source.counts[strata].astype(np.float64), random, statement)


def _refuse(sample: ReferenceSample, wrong: NDArray[np.bool_], text: str) -> None:
    if wrong.any():
        raise DataError(
            f"{sample.file}: {wrong.sum()} of {len(sample)} units ({sample.named(wrong)}) {text}, {WAY_OUT}"
        )


def _doubled(sample: ReferenceSample) -> NDArray[np.bool_]:
    return pd.DataFrame({"row": sample.rows, "column": sample.columns}).duplicated(keep=False).to_numpy()


def _moved(sample: ReferenceSample, source: ClassMap) -> NDArray[np.bool_]:
    """u: whether the point lies more than half a pixel from the lon and lat it was drawn at, where these are kept."""
    table = sample.table
    if not {"lon", "lat"} <= set(table.columns):
        return np.zeros(len(sample), bool)
    places = pd.DataFrame({name: pd.to_numeric(table[name], errors="coerce") for name in ("lon", "lat")})
    drawn = gpd.GeoSeries(gpd.points_from_xy(places["lon"], places["lat"]), crs=WGS84).to_crs(table.crs)
    away = drawn.distance(table.geometry.reset_index(drop=True)).to_numpy()
    return ~(away <= 0.5 * abs(source.transform.a))


def _stratum_names(sizes: pd.Series, source: ClassMap) -> list[str]:
    """Numbers, with the map's names where the sample was drawn from it."""
    ours = _is_of(sizes, source)
    return [f"stratum {number}" + (f" ({source.names[number]})" if ours else "") for number in sizes.index]


def _is_of(sizes: pd.Series, source: ClassMap) -> bool:
    """Whether the strata are classes of this map."""
    return all(0 < size == source.counts[number] for number, size in sizes.items() if 0 <= number < IDS)


def _refuse_other_region(sample: ReferenceSample, sizes: pd.Series, source: ClassMap) -> None:
    """Strata that are not the whole region would make every area wrong."""
    if _is_of(sizes, source):
        missing = [int(number) for number in np.flatnonzero(source.counts) if number not in sizes.index]
        if missing:
            name, pixels = source.names[missing[0]], source.counts[missing[0]]
            raise DataError(
                f"{sample.file} has no unit of {name!r}, of which {source.file} has {pixels} pixels: give all drawn "
                f"units, {WAY_OUT}"
            )
        return
    total, strata = int(source.counts.sum()), int(sizes.sum())
    if abs(total - strata) > SAME_REGION * total:
        raise DataError(
            f"the strata of {sample.file} hold {strata} pixels, {source.file} has {total}: give a map of the region "
            "and pixel size that the sample was drawn from"
        )
