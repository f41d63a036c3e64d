"""One region of any size: truth, parcels and the image series that shows it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluemap.data.synthetic.atmosphere import Weather, make_weather, picture, through_air
from cluemap.data.synthetic.generator_params import STANDARD, Difficulty
from cluemap.data.synthetic.landscape import RIM, make_land
from cluemap.data.synthetic.phenology import cover, make_growth
from cluemap.data.synthetic.random_fields import Seed, stream
from cluemap.data.synthetic.spectra import SURFACE_BANDS, Band
from cluemap.data.synthetic.surface_reflectance import MARGIN, ground_view, make_materials

Dates = NDArray[np.datetime64]


@dataclass(frozen=True)
class Tile:
    """What all scenes of one Sentinel-2 tile share: when it was seen, its weather, its season and its soils."""

    dates: Dates  # t, days, ascending
    weather: Weather
    shift: float  # days by which its plants are late
    soil: float  # relative brightness of its soils


@dataclass(frozen=True)
class Scene:
    """A rendered region. Ids are PASTIS's: 0 background, 19 void (parcels mostly outside)."""

    images: NDArray[np.int16]  # t c h w, reflectance x 10000, -10000 = no data
    days: NDArray[np.int16]  # t, day of year 1..366
    labels: NDArray[np.uint8]  # h w
    parcels: NDArray[np.int32]  # h w, 0 = no parcel


def season_days(dates: Dates) -> NDArray[np.float64]:
    """t -> t: days since 1 January of the last date's year, the year of the harvest."""
    return (dates - dates[-1].astype("datetime64[Y]").astype("datetime64[D]")).astype(np.float64)


def make_tile(dates: Dates, seed: Seed, difficulty: Difficulty = STANDARD) -> Tile:
    """-> a tile with its own weather, season and soils."""
    rng = stream(seed)
    shift = difficulty.growth.region_shift * rng.standard_normal()
    soil = float(np.exp(0.22 * rng.standard_normal()))
    return Tile(dates, make_weather(season_days(dates), difficulty.sky, rng), shift, soil)


def render(
    height: int, width: int, tile: Tile, seed: Seed, bands: tuple[Band, ...] = SURFACE_BANDS,
    difficulty: Difficulty = STANDARD,
) -> Scene:  # fmt: skip
    """-> a region of h w pixels of 10 m. The land does not depend on the dates, nor the plants on the sky."""
    of_land, of_growth, of_sky = (stream(seed, part) for part in range(3))
    land = make_land(height, width, difficulty.land, of_land)
    elements = land.elements[RIM - MARGIN : -RIM + MARGIN, RIM - MARGIN : -RIM + MARGIN]
    growth = make_growth(land.kinds, tile.shift, difficulty.growth, of_growth)
    materials = make_materials(land.kinds, elements.shape, tile.soil, bands, difficulty.growth, of_growth)
    plants = cover(growth, season_days(tile.dates))  # t e 3
    images = np.empty((len(tile.dates), len(bands), height, width), np.int16)
    for date in range(len(tile.dates)):
        view = ground_view(elements, plants[date], tile.weather.wetness[date], materials, bands, difficulty)
        images[date] = picture(through_air(view, bands), tile.weather, date, bands, difficulty.sky, of_sky)
    return Scene(images, day_of_year(tile.dates), land.labels, land.parcels)


def day_of_year(dates: Dates) -> NDArray[np.int16]:
    """t -> t: 1..366."""
    return ((dates - dates.astype("datetime64[Y]").astype("datetime64[D]")).astype(np.int64) + 1).astype(np.int16)
