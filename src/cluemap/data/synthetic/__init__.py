"""The demo: made-up farmland as Sentinel-2 would see it, with the truth known.

bands       the sensor's bands, and how soil, plants, roofs, water and cloud reflect in them
kinds       the calendar of eight crops and of what lies between them
parcels     fields in rows and strips, parted by roads, hedges and verges
land        what lies where: crops in clusters, woods, villages, rivers, undeclared fields; void parcels at the edge
phenology   each parcel's own course: sowing, green-up, flowering, ripening, harvest, catch crops, mowing
surface     plants and soil mixed to reflectance, soil moisture, variation within fields, the optics' blur
sky         air, haze, clouds and their shadows, a date's light, sensor noise, missing data
scene       `render`: a region of any size, any dates, surface or top-of-atmosphere bands
writing     the data set of 25 patches in PASTIS's layout (tables: its metadata and statistics)
difficulty  every knob of the above
"""

from cluemap.data.synthetic.demo_pastis import Plan, make_demo
from cluemap.data.synthetic.generator_params import Difficulty
from cluemap.data.synthetic.region import Scene, Tile, make_tile, render
from cluemap.data.synthetic.spectra import SURFACE_BANDS, TOP_BANDS, Band

__all__ = [
    "SURFACE_BANDS",
    "TOP_BANDS",
    "Band",
    "Difficulty",
    "Plan",
    "Scene",
    "Tile",
    "make_demo",
    "make_tile",
    "render",
]
