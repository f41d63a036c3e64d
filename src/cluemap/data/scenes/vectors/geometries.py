"""What becomes of geometries: polygons repaired, lines and points told from them."""

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray


def of_kind(table: gpd.GeoDataFrame, kind: str) -> gpd.GeoDataFrame:
    """Features that are polygons (repaired: a spike of no width, a ring that crosses itself), or that are points."""
    if kind == "points":
        return table[table.geom_type.isin(("Point", "MultiPoint"))]
    shapes = polygonal(table.geometry.values)
    return table.set_geometry(gpd.GeoSeries(shapes, index=table.index, crs=table.crs))[~shapely.is_missing(shapes)]


def polygonal(shapes: NDArray) -> NDArray:
    """The valid area of each geometry; None for those that have none."""
    held = np.asarray(shapes, object)
    area = np.isin(shapely.get_type_id(held), (3, 6, 7))
    fixed = np.full(held.shape, None, object)
    fixed[area] = shapely.make_valid(held[area], method="structure", keep_collapsed=False)
    mixed = np.flatnonzero(shapely.get_type_id(fixed) == 7)
    for index in mixed:  # a collection: its polygons alone
        parts = shapely.get_parts(fixed[index])
        fixed[index] = shapely.union_all(parts[shapely.area(parts) > 0])
    fixed[shapely.is_empty(fixed) | ~np.isin(shapely.get_type_id(fixed), (3, 6))] = None
    return fixed
