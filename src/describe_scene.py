"""Write a scene.yaml from images and labels: bands, classes, grid and split, as they are found in them."""

import argparse
import logging
import sys
from pathlib import Path

from cluemap.errors import CluemapError
from cluemap.mapping.inspection.scene_description import describe


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="src/describe_scene.py", description=__doc__)
    parser.add_argument("images", type=Path, help="folder of *.SAFE products (also zipped), files, or folders by date")
    parser.add_argument("labels", type=Path, help="polygons or points: any vector file, GeoParquet, or CSV")
    parser.add_argument("--column", help="column of the class (default: the one that looks like it)")
    parser.add_argument("--out", type=Path, help="folder of scene.yaml (default: the one above the images)")
    parser.add_argument("--window", type=int, default=24, help="pixels a side of a window (default %(default)s)")
    return parser.parse_args()


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    given = parse()
    folder = given.out or given.images.resolve().parent
    try:
        plan = describe(given.images, given.labels, folder, given.column, given.window)
    except CluemapError as error:
        print(f"describe_scene: error: {error}", file=sys.stderr)
        return 2
    print(
        f"describe_scene: {plan.windows} windows of {plan.size} px, blocks of {plan.block:g} m -> "
        f"{folder / 'scene.yaml'}; look at it, then run python src/inspect_scene.py {folder}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
