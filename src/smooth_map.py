"""Smooth a map: a vote among neighbouring pixels, and a minimum mapping unit. Writes another map beside it.

Areas counted on a smoothed map are as biased as those of the map itself: estimate them (src/estimate_area.py).
"""

import argparse
import sys
from pathlib import Path

from cluemap.errors import CluemapError
from cluemap.mapping.postprocessing.class_map import open_map
from cluemap.mapping.postprocessing.smoothed_map import Smoothing, smooth_map


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="src/smooth_map.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    usual = Smoothing()
    parser.add_argument("--map", required=True, type=Path, help="a map of classes, as src/predict.py writes it")
    parser.add_argument("--out", type=Path, help="the map to write (default: <map>_smooth.tif beside the map)")
    vote = "class most frequent, or most probable on average, in the window (default %(default)s)"
    parser.add_argument("--vote", choices=("majority", "probability", "none"), default=usual.vote, help=vote)
    side = "pixels a side of the window, an odd number (default %(default)s)"
    parser.add_argument("--window", type=int, default=usual.window, help=side)
    smallest = "minimum mapping unit: smaller patches go to their largest neighbour (default: all stay)"
    parser.add_argument("--minimum", type=float, default=usual.minimum, metavar="HECTARES", help=smallest)
    shares = "of --vote probability (default: <map>_probability.tif, which predict --probabilities writes)"
    parser.add_argument("--probabilities", type=Path, help=shares)
    given = parser.parse_args()
    out = given.out or given.map.with_name(f"{given.map.stem}_smooth.tif")
    try:
        smoothing = Smoothing(given.vote, given.window, given.minimum, given.probabilities)
        smooth_map(open_map(given.map), smoothing, out)
    except CluemapError as error:
        print(f"smooth_map: error: {error}", file=sys.stderr)
        return 2
    print(f"smooth_map: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
