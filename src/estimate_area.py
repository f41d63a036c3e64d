"""Estimate hectares per class from a map and a labelled sample, with standard errors and 95 % confidence intervals.

The sample is one that src/draw_sample.py drew, labelled; the map may be a newer one than it was drawn from. Pixel
counts are shown beside the estimates, as counts. See docs/areas.md.
"""

import argparse
import logging
import sys
from pathlib import Path

from cluemap.errors import CluemapError
from cluemap.statistics.area_report import AreaOrder, describe, estimate_areas, write_report


def parse() -> AreaOrder:
    parser = argparse.ArgumentParser(
        prog="src/estimate_area.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--map", required=True, type=Path, help="a map of classes, as src/predict.py writes it")
    places = "labelled units: points in a GeoPackage or other vector file, or CSV with lon, lat (or x, y)"
    parser.add_argument("--sample", required=True, type=Path, help=places)
    column = "column with the labels: names or numbers of the map's classes (default %(default)s)"
    parser.add_argument("--column", default="reference", help=column)
    parser.add_argument("--extra", nargs="+", default=[], metavar="CLASS", help="classes that the map does not have")
    drawn = parser.add_mutually_exclusive_group()
    by_others = "another tool drew the units at random, over the whole map or within each of its classes"
    drawn.add_argument("--random", action="store_true", help=by_others)
    chosen = "the units were chosen, not drawn: calculate all the same, and mark every output"
    drawn.add_argument("--not-random", action="store_true", help=chosen)
    parser.add_argument("--out", type=Path, help="stem of the files (default: <sample>_areas beside the sample)")
    given = parser.parse_args()
    said = given.random if given.random or given.not_random else None
    return AreaOrder(given.map, given.sample, given.column, tuple(given.extra), said, given.out)


def main() -> int:
    logging.getLogger("pyogrio").setLevel(logging.WARNING)  # it tells of every record written
    order = parse()
    try:
        report = estimate_areas(order)
        files = write_report(report, order)
    except CluemapError as error:
        print(f"estimate_area: error: {error}", file=sys.stderr)
        return 2
    print(describe(report))
    print(f"estimate_area: {', '.join(file.name for file in files)} -> {files[0].parent}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
