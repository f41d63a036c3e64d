"""Draw a stratified random sample of a map's pixels, to be labelled in QGIS and given to src/estimate_area.py.

Writes a GeoPackage (points, and the pixels' outlines) and the same table as CSV. Fill in the column `reference`.
"""

import argparse
import logging
import sys
from pathlib import Path

from cluemap.errors import CluemapError
from cluemap.mapping.postprocessing.class_map import open_map
from cluemap.statistics.sample_drawing import draw_sample, write_sample


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="src/draw_sample.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--map", required=True, type=Path, help="a map of classes, as src/predict.py writes it")
    parser.add_argument("--size", required=True, type=int, help="units to draw, of all classes together")
    fewest = "units of every class at least (default: 50, less where --size is small); the rest in proportion to area"
    parser.add_argument("--minimum", type=int, help=fewest)
    parser.add_argument("--seed", type=int, default=0, help="another seed, another sample (default %(default)s)")
    parser.add_argument("--out", type=Path, help="the sample to write (default: <map>_sample.gpkg beside the map)")
    return parser.parse_args()


def main() -> int:
    logging.getLogger("pyogrio").setLevel(logging.WARNING)  # it tells of every record written
    given = parse()
    out = given.out or given.map.with_name(f"{given.map.stem}_sample.gpkg")
    try:
        source = open_map(given.map)
        sample = draw_sample(source, given.size, given.minimum, given.seed)
        files = write_sample(out, sample, source)
    except CluemapError as error:
        print(f"draw_sample: error: {error}", file=sys.stderr)
        return 2
    for number, units in sample["stratum"].value_counts().sort_index().items():
        print(f"{units:6d} of {source.names.get(number, number)} ({source.counts[number]} pixels)")
    print(f"draw_sample: {len(sample)} units, {', '.join(file.name for file in files)} -> {out.parent}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
