"""The sensor's bands, and how each material reflects in them.

Values are reflectances (0..1) of a full cover, after the ranges of published spectral libraries, rounded; they are
meant to give crops their right courses, not to stand for a measured field.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Band:
    """One band of Sentinel-2 as a product delivers it."""

    name: str
    wavelength: float  # nanometres
    pixel: float  # ground sampling in metres, before it is brought to 10 m
    path: float = 0.0  # reflectance the air adds (0 in a surface product)
    transmission: float = 1.0  # share of the land's light that comes through


SENTINEL2 = {
    band.name: band
    for band in (
        Band("B01", 443, 60, 0.105, 0.80),
        Band("B02", 492, 10, 0.072, 0.85),
        Band("B03", 560, 10, 0.042, 0.89),
        Band("B04", 665, 10, 0.022, 0.93),
        Band("B05", 704, 20, 0.018, 0.93),
        Band("B06", 741, 20, 0.015, 0.94),
        Band("B07", 783, 20, 0.012, 0.95),
        Band("B08", 833, 10, 0.010, 0.95),
        Band("B8A", 865, 20, 0.008, 0.96),
        Band("B09", 945, 60, 0.004, 0.35),
        Band("B10", 1374, 60, 0.001, 0.01),
        Band("B11", 1614, 20, 0.001, 0.95),
        Band("B12", 2202, 20, 0.000, 0.94),
    )
}
_PASTIS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
_MTLCC = ("B04", "B03", "B02", "B08", "B05", "B06", "B07", "B8A", "B11", "B12", "B01", "B09", "B10")

# At the surface (air removed), as in PASTIS; and at the top of the atmosphere, as in the Germany tiles.
SURFACE_BANDS = tuple(Band(SENTINEL2[name].name, SENTINEL2[name].wavelength, SENTINEL2[name].pixel) for name in _PASTIS)
TOP_BANDS = tuple(SENTINEL2[name] for name in _MTLCC)

# Columns: B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B10 B11 B12. Crops that look alike share a canopy on purpose.
_MATERIALS = {
    "cereal": (0.020, 0.025, 0.058, 0.022, 0.095, 0.310, 0.410, 0.440, 0.460, 0.460, 0.25, 0.200, 0.090),
    "tall": (0.020, 0.025, 0.057, 0.023, 0.092, 0.300, 0.400, 0.430, 0.455, 0.450, 0.25, 0.195, 0.088),
    "broad": (0.022, 0.027, 0.066, 0.024, 0.105, 0.360, 0.470, 0.500, 0.520, 0.520, 0.27, 0.215, 0.100),
    "grass": (0.022, 0.028, 0.064, 0.030, 0.108, 0.290, 0.370, 0.400, 0.420, 0.420, 0.25, 0.225, 0.115),
    "leaves": (0.016, 0.020, 0.045, 0.022, 0.075, 0.260, 0.340, 0.370, 0.390, 0.400, 0.20, 0.160, 0.070),
    "needles": (0.012, 0.016, 0.030, 0.018, 0.048, 0.140, 0.180, 0.200, 0.212, 0.220, 0.12, 0.085, 0.036),
    "petals": (0.040, 0.050, 0.170, 0.150, 0.215, 0.380, 0.470, 0.490, 0.510, 0.510, 0.27, 0.220, 0.110),
    "straw": (0.080, 0.100, 0.150, 0.205, 0.245, 0.280, 0.300, 0.320, 0.340, 0.350, 0.33, 0.360, 0.250),
    "branches": (0.035, 0.040, 0.055, 0.070, 0.095, 0.130, 0.150, 0.165, 0.175, 0.190, 0.19, 0.200, 0.130),
    "dry soil": (0.085, 0.100, 0.140, 0.190, 0.210, 0.225, 0.240, 0.258, 0.270, 0.285, 0.31, 0.350, 0.300),
    "wet soil": (0.045, 0.052, 0.074, 0.102, 0.118, 0.130, 0.142, 0.155, 0.165, 0.160, 0.16, 0.210, 0.165),
    "asphalt": (0.080, 0.086, 0.096, 0.106, 0.112, 0.118, 0.124, 0.130, 0.135, 0.140, 0.14, 0.160, 0.150),
    "tiles": (0.080, 0.092, 0.125, 0.190, 0.215, 0.230, 0.240, 0.250, 0.260, 0.265, 0.27, 0.290, 0.265),
    "metal": (0.260, 0.280, 0.300, 0.315, 0.325, 0.330, 0.335, 0.340, 0.345, 0.340, 0.32, 0.330, 0.310),
    "gravel": (0.140, 0.165, 0.210, 0.255, 0.275, 0.290, 0.300, 0.310, 0.320, 0.330, 0.35, 0.390, 0.350),
    "water": (0.040, 0.042, 0.042, 0.030, 0.026, 0.020, 0.018, 0.016, 0.014, 0.012, 0.01, 0.009, 0.007),
    "cloud": (0.790, 0.790, 0.790, 0.800, 0.805, 0.810, 0.815, 0.820, 0.825, 0.640, 0.30, 0.560, 0.420),
}


def reflectance(material: str, bands: tuple[Band, ...]) -> NDArray[np.float64]:
    """-> c: reflectance of a full cover of `material` in `bands`."""
    columns = list(SENTINEL2)
    return np.array([_MATERIALS[material][columns.index(band.name)] for band in bands])


def falling(bands: tuple[Band, ...], power: float) -> NDArray[np.float64]:
    """-> c: 1 at 490 nm, falling with the wavelength to the given power (haze and air scatter blue most)."""
    return np.array([(band.wavelength / 490.0) ** -power for band in bands])
