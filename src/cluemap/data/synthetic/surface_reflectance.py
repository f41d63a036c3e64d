"""What the ground reflects: plants, dead plants and soil mixed by their shares, then blurred by the sensor's optics.

Soil is darker when moist, which changes from date to date; every element has its own soil and canopy, and within it
both vary smoothly from place to place.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluemap.data.synthetic.generator_params import Difficulty, GrowthParams
from cluemap.data.synthetic.land_cover import KINDS
from cluemap.data.synthetic.random_fields import Floats, blur, smooth_field
from cluemap.data.synthetic.spectra import Band, reflectance

MARGIN = 9  # pixels around the region that the blur of the coarsest band reads


@dataclass(frozen=True)
class Materials:
    """Reflectance of every element's own materials, and their variation from place to place."""

    plants: Floats  # e 3 c: green, flowering, dry
    moist: Floats  # e c: ground at its wettest
    parched: Floats  # e c: ground at its driest
    vigour: Floats  # H W: relative surplus of green cover
    soil: Floats  # H W: relative surplus of the ground's brightness


def make_materials(
    kinds: NDArray[np.int64], size: tuple[int, int], soil: float, bands: tuple[Band, ...], params: GrowthParams,
    rng: np.random.Generator,
) -> Materials:  # fmt: skip
    """kinds e -> materials; `soil`: relative brightness of the region's soils."""
    count = len(kinds)
    wavelengths = np.array([band.wavelength for band in bands])
    canopy = np.stack([reflectance(KINDS[kind].canopy, bands) for kind in kinds])
    petals, straw = reflectance("petals", bands), reflectance("straw", bands)
    plants = np.stack([canopy, np.broadcast_to(petals, canopy.shape), np.broadcast_to(straw, canopy.shape)], axis=1)
    plants = plants * _band_groups(wavelengths, params.canopy * rng.standard_normal((count, 3, 3)))
    on_soil = np.array([KINDS[kind].ground == "soil" for kind in kinds])[:, None]
    other = np.stack([reflectance(_ground(kind), bands) for kind in kinds])
    bright = np.exp(params.soil * rng.standard_normal(count))[:, None]
    red = np.exp(0.5 * params.soil * rng.standard_normal(count)[:, None] * (wavelengths / 700.0 - 1.0).clip(-0.4, 0.3))
    dry, wet = reflectance("dry soil", bands) * soil, reflectance("wet soil", bands) * soil
    return Materials(
        plants, np.where(on_soil, wet, other) * bright * red, np.where(on_soil, dry, other) * bright * red,
        params.within * smooth_field(*size, 5.0, rng) + 0.5 * params.within * smooth_field(*size, 1.2, rng),
        0.07 * smooth_field(*size, 7.0, rng) + 0.03 * smooth_field(*size, 1.0, rng),
    )  # fmt: skip


def _ground(kind: int) -> str:
    return "dry soil" if KINDS[kind].ground == "soil" else KINDS[kind].ground


def _band_groups(wavelengths: Floats, surplus: Floats) -> Floats:
    """surplus e m 3 (logarithms, for visible, near and short-wave infrared) -> factors e m c."""
    group = np.searchsorted([720.0, 1200.0], wavelengths)
    return np.exp(surplus[:, :, group])


def ground_view(
    elements: NDArray[np.int32], cover: Floats, wetness: float, materials: Materials, bands: tuple[Band, ...],
    difficulty: Difficulty,
) -> Floats:  # fmt: skip
    """elements (h + 2 margin) (w + 2 margin), cover e 3 of one date -> c h w: reflectance of the land, blurred."""
    green, flowering, dry = (cover[:, number][elements] for number in range(3))
    surplus = np.clip(1 + materials.vigour, 0.0, 1 / np.maximum(green + flowering, 0.3))
    green, flowering = green * surplus, flowering * surplus
    dry = np.minimum(dry, 1 - green - flowering)
    bare = (1 - green - flowering - dry) * (1 + materials.soil)
    ground = wetness * materials.moist + (1 - wetness) * materials.parched  # e c
    views = []
    for number, band in enumerate(bands):
        of_green, of_petals, of_straw = (materials.plants[:, part, number][elements] for part in range(3))
        sharp = green * of_green + flowering * of_petals + dry * of_straw + bare * ground[:, number][elements]
        views.append(blur(sharp, difficulty.sky.blur * max(band.pixel / 10.0, 1.0), MARGIN))
    return np.stack(views)
