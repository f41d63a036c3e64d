"""Make polygons of a map: one for each connected patch of a class, as GeoPackage or GeoParquet.

Smooth the map first (src/smooth_map.py), or every speck becomes a polygon. Fields of one class that touch are one.
"""

import argparse
import logging
import sys
from pathlib import Path

from cluemap.errors import CluemapError
from cluemap.mapping.postprocessing.class_map import open_map
from cluemap.mapping.postprocessing.field_polygons import check_ending, field_polygons, write_polygons


def main() -> int:
    logging.getLogger("pyogrio").setLevel(logging.WARNING)  # it tells of every record written
    parser = argparse.ArgumentParser(
        prog="src/vectorise_map.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--map", required=True, type=Path, help="a map of classes, as src/predict.py writes it")
    parser.add_argument("--out", type=Path, help="*.gpkg or *.parquet (default: <map>_fields.gpkg beside the map)")
    parser.add_argument("--minimum", type=float, default=0.0, metavar="HECTARES", help="leave out smaller patches")
    straight = "straighten borders by up to this much; shared borders stay shared"
    parser.add_argument("--simplify", type=float, default=0.0, metavar="METRES", help=straight)
    parser.add_argument("--background", action="store_true", help="also polygons of the background")
    given = parser.parse_args()
    out = given.out or given.map.with_name(f"{given.map.stem}_fields.gpkg")
    try:
        check_ending(out)
        polygons = field_polygons(open_map(given.map), given.minimum, given.simplify, given.background)
        write_polygons(out, polygons)
    except CluemapError as error:
        print(f"vectorise_map: error: {error}", file=sys.stderr)
        return 2
    print(f"vectorise_map: {len(polygons)} polygons, {polygons['hectares'].sum():,.1f} ha -> {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
