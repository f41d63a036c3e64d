"""What lies between the land and the picture: air, haze, clouds with their shadows, a date's light, noise, gaps."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluemap.data.synthetic.generator_params import SkyParams
from cluemap.data.synthetic.random_fields import Floats, rough_field, smooth_field
from cluemap.data.synthetic.spectra import Band, falling, reflectance

NODATA = -10000
SCALE = 10000.0  # stored value of reflectance 1
DRIFT = 40  # pixels that a shadow may lie away from its cloud, at most


@dataclass(frozen=True)
class Weather:
    """The dates of one tile: what all its patches share."""

    clouds: Floats  # t: share of the sky under cloud; above 1 = thick everywhere
    wetness: Floats  # t: of the soil, 0..1
    haze: Floats  # t: reflectance added in the blue
    light: Floats  # t: brightness, about 1
    correction: Floats  # t: error left by the atmospheric correction, in the blue
    missing: NDArray[np.bool_]  # t: no data at all


def make_weather(days: NDArray[np.float64], params: SkyParams, rng: np.random.Generator) -> Weather:
    """days t (from 1 January) -> the tile's weather."""
    count = len(days)
    chance, amount = rng.random((2, count))
    overcast, broken = chance < params.overcast, chance < params.overcast + params.broken
    clouds = np.where(overcast, 0.6 + 0.7 * amount, np.where(broken, 0.02 + 0.5 * amount**1.5, 0.0))
    wetness = 0.45 + 0.30 * np.cos(2 * np.pi * (days - 15.0) / 365.25) + 0.22 * rng.standard_normal(count)
    haze = -params.haze * np.log(1.0 - rng.random(count))
    light = 1 + params.light * rng.standard_normal(count)
    correction = params.correction * rng.standard_normal(count)
    return Weather(clouds, np.clip(wetness, 0.0, 1.0), haze, light, correction, rng.random(count) < params.missing)


def through_air(land: Floats, bands: tuple[Band, ...]) -> Floats:
    """c h w -> c h w: the part of the land's light that passes the air, plus the air's own (none in surface bands)."""
    path, transmission = np.array([(band.path, band.transmission) for band in bands]).T[:, :, None, None]
    return path + transmission * land


def picture(
    land: Floats, weather: Weather, date: int, bands: tuple[Band, ...], params: SkyParams, rng: np.random.Generator
) -> NDArray[np.int16]:
    """land c h w of one date -> c h w: stored values as the sensor saw them through that date's sky."""
    height, width = land.shape[1:]
    opacity, shadow = _clouds(height, width, weather.clouds[date], rng)
    diffuse = np.clip(0.25 + 0.22 * falling(bands, 1.0), 0.0, 0.6)[:, None, None]  # light that reaches a full shadow
    seen = land * weather.light[date] * (1 - shadow * (1 - diffuse))
    haze = weather.haze[date] * np.exp(0.5 * smooth_field(height, width, 30.0, rng))
    seen = seen * (1 - haze) + haze * falling(bands, 1.2)[:, None, None]
    seen = seen + weather.correction[date] * falling(bands, 2.0)[:, None, None]
    top = reflectance("cloud", bands)[:, None, None] * (0.8 + 0.14 * rough_field(height, width, 0.6, rng))
    seen = (1 - opacity) * seen + opacity * top
    seen = seen + (params.noise + 0.015 * np.abs(seen)) * rng.standard_normal(seen.shape)
    stored = np.clip(np.rint(seen * SCALE), -2500, 16000).astype(np.int16)
    gap = np.full((height, width), weather.missing[date]) | _beyond_swath(height, width, params, rng)
    return np.where(gap, np.int16(NODATA), stored)


def _clouds(height: int, width: int, share: float, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """-> opacity and shadow (0..1, h w) of clouds over about `share` of the sky."""
    field = rough_field(height + DRIFT, width + DRIFT, 0.45, rng)
    drift = 6 + (DRIFT - 6) * rng.random(2)  # the sun stands in the south-east: shadows fall to the north-west
    thickness, softness = 0.9 + 1.4 * rng.random(), 0.3 + 0.7 * rng.random()
    if share <= 0:
        return np.zeros((height, width)), np.zeros((height, width))
    edge = np.quantile(field, 1 - share) if share < 1 else field.min() - 2 * (share - 1)
    opacity = 1 - np.exp(-thickness * np.maximum(field - edge, 0.0) / softness)
    down, right = int(drift[0]), int(drift[1])
    shadow = opacity[down : down + height, right : right + width]
    return opacity[:height, :width], shadow


def _beyond_swath(height: int, width: int, params: SkyParams, rng: np.random.Generator) -> NDArray[np.bool_]:
    """-> h w: pixels past a straight swath edge, on the few dates that have one."""
    chance, angle, place = rng.random(3)
    rows, columns = np.mgrid[:height, :width]
    across = (rows - height / 2) * np.cos(np.pi * angle) + (columns - width / 2) * np.sin(np.pi * angle)
    return (across > (place - 0.5) * 0.8 * min(height, width)) & (chance < params.cut_off)
