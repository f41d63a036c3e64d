"""What becomes of geometries: polygons repaired, lines and points told from them."""

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.errors import ShapelyError


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
    fixed[area] = _repaired(held[area])
    mixed = np.flatnonzero(shapely.get_type_id(fixed) == 7)
    for index in mixed:  # a collection: its polygons alone
        parts = shapely.get_parts(fixed[index])
        fixed[index] = shapely.union_all(parts[shapely.area(parts) > 0])
    fixed[shapely.is_empty(fixed) | ~np.isin(shapely.get_type_id(fixed), (3, 6))] = None
    return fixed


def _repaired(shapes: NDArray) -> NDArray:
    """Valid ones; None for one that is beyond repair (coordinates that are no numbers)."""
    try:
        return np.asarray(shapely.make_valid(shapes, method="structure", keep_collapsed=False), object)
    except ShapelyError:
        if len(shapes) == 1:
            return np.full(1, None, object)
        return np.concatenate([_repaired(shapes[[number]]) for number in range(len(shapes))])
