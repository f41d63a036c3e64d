"""The demo: made-up farmland as Sentinel-2 would see it, with the truth known.

spectra               the sensor's bands, and how soil, plants, roofs, water and cloud reflect in them
land_cover            the calendar of eight crops and of what lies between them
parcels               fields in rows and strips, parted by roads, hedges and verges
landscape             crops in clusters, woods, villages, rivers, undeclared fields; void parcels at the edge
phenology             each parcel's own course: sowing, green-up, flowering, ripening, harvest, catch crops, mowing
surface_reflectance   plants and soil mixed to reflectance, soil moisture, variation within fields, the optics' blur
atmosphere            air, haze, clouds and their shadows, a date's light, sensor noise, missing data
region                `render`: a region of any size, any dates, surface or top-of-atmosphere bands
demo_pastis           the data set of 25 patches in PASTIS's layout (tables: its metadata and statistics)
generator_params      every parameter of the above
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
